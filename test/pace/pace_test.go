package pace

import "testing"

func TestFactorIsANumberFromOneOn(t *testing.T) {
	for in, want := range map[string]float64{
		"": 1, "1": 1, "10": 10, "2.5": 2.5, "0": 1, "-3": 1, "0.5": 1, "x": 1, "NaN": 1, "Inf": 1, "1e9": 1,
	} {
		if have := parse(in); have != want {
			t.Errorf("%q: %v, want %v", in, have, want)
		}
	}
}

func TestThereIsAlwaysSomethingToDo(t *testing.T) {
	t.Setenv(Env, "10")
	for n, want := range map[int]int{2000: 200, 25: 2, 3: 1, 0: 1} {
		if have := Fewer(n); have != want {
			t.Errorf("of %d: %d, want %d", n, have, want)
		}
	}
}
