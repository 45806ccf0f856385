package linkshare

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestLinkIsDividedFairlyAndFrozenPodsGoFirst(t *testing.T) {
	for _, c := range []struct {
		name   string
		link   float64
		claims []Claim
		want   []Share
	}{
		{"nobody", 100, nil, nil},
		{"one has it all", 100, []Claim{{}}, []Share{{Rate: 100}}},
		{"equal parts", 90, []Claim{{}, {}, {}}, []Share{{Rate: 30}, {Rate: 30}, {Rate: 30}}},
		{"who needs less leaves the rest", 100, []Claim{{}, {Want: 20}, {}}, []Share{{Rate: 40}, {Rate: 20}, {Rate: 40}}},
		{"limits count as needs", 100, []Claim{{Limit: 10}, {}, {}}, []Share{{Rate: 10}, {Rate: 45}, {Rate: 45}}},
		{"in steps", 100, []Claim{{Want: 10}, {Want: 40}, {}, {}}, []Share{{Rate: 10}, {Rate: 30}, {Rate: 30}, {Rate: 30}}},
		{"what nobody wants is there for all", 100, []Claim{{Want: 10}, {Want: 30}}, []Share{{Rate: 40}, {Rate: 60}}},
		{"but not beyond a limit", 100, []Claim{{Want: 10, Limit: 20}, {Want: 30}}, []Share{{Rate: 20}, {Rate: 60}}},
		{"a frozen pod takes all", 100, []Claim{{}, {Urgent: true, Want: 1}, {}}, []Share{{Held: true}, {Rate: 100}, {Held: true}}},
		{"a frozen pod with a limit leaves the rest", 100, []Claim{{}, {Urgent: true, Limit: 40}, {}}, []Share{{Rate: 30}, {Rate: 40}, {Rate: 30}}},
		{"which is not worth it if it is little", 100, []Claim{{}, {Urgent: true, Limit: 99}}, []Share{{Held: true}, {Rate: 99}}},
		{"two frozen pods share", 100, []Claim{{Urgent: true}, {Urgent: true}, {}}, []Share{{Rate: 50}, {Rate: 50}, {Held: true}}},
		{"no limit of the node", 0, []Claim{{}, {Limit: 7}}, []Share{{}, {Rate: 7}}},
		{"no limit of the node, a frozen pod", 0, []Claim{{}, {Limit: 7, Urgent: true}}, []Share{{Held: true}, {Rate: 7}}},
	} {
		got := Divide(c.link, c.claims)
		if len(got) != len(c.want) {
			t.Fatalf("%s: %v", c.name, got)
		}
		for i, s := range got {
			if s.Held != c.want[i].Held || math.Abs(s.Rate-c.want[i].Rate) > 1e-9 {
				t.Errorf("%s: claim %d gets %+v, want %+v", c.name, i, s, c.want[i])
			}
		}
	}
}

// Whatever is claimed: the link is not overrun, no limit is, none of it lies idle that
// somebody wants, and nobody has less than another that has more than it wants.
func TestADivisionIsMaxMinFair(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		claims := make([]Claim, 1+random.IntN(12))
		for i := range claims {
			if random.IntN(2) == 0 {
				claims[i].Limit = 1 + 200*random.Float64()
			}
			if random.IntN(2) == 0 {
				claims[i].Want = 1 + 200*random.Float64()
			}
		}
		const link = 300
		shares := Divide(link, claims)
		sum, hungry := 0.0, false
		for i, s := range shares {
			sum += s.Rate
			most := lesser(claims[i].Limit, claims[i].Want)
			if claims[i].Limit > 0 && s.Rate > claims[i].Limit+1e-6 || s.Held || s.Rate <= 0 {
				t.Fatalf("%+v get %+v", claims, shares)
			}
			if most > 0 && s.Rate >= most-1e-6 {
				continue
			}
			hungry = true
			for j, other := range shares {
				if other.Rate > s.Rate+1e-6 && j != i {
					t.Fatalf("%+v get %+v: %d wants more, %d has more", claims, shares, i, j)
				}
			}
		}
		if sum > link+1e-6 || hungry && sum < link-1e-6 {
			t.Fatalf("%+v get %+v, in all %v", claims, shares, sum)
		}
	}
}

func TestOnlyADifferentShareIsTold(t *testing.T) {
	for _, c := range []struct {
		told, now Share
		want      bool
	}{
		{Share{}, Share{}, false},
		{Share{}, Share{Rate: 1}, true},
		{Share{Rate: 1}, Share{}, true},
		{Share{Rate: 1000}, Share{Rate: 1010}, false},
		{Share{Rate: 1000}, Share{Rate: 950}, true},
		{Share{Rate: 5}, Share{Rate: 5, Held: true}, true},
	} {
		if got := Differs(c.told, c.now); got != c.want {
			t.Errorf("%+v after %+v: %v", c.now, c.told, got)
		}
	}
}
