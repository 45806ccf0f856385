// Package linkshare decides what each of a node's migrations may take of the node's
// link. It only computes: who measures, and who tells the migrations, is its user's
// business.
//
// A frozen pod's last pages go first: bulk of the others gets what they cannot take,
// or nothing if nobody knows how much that is. What is left is divided so that the
// smallest share is as large as it can be: who needs less than its part leaves the
// rest to the others.
package linkshare

import "slices"

// Claim is what one migration would take. All rates are bytes a second.
type Claim struct {
	// Limit is what it was told to take at most; 0: nothing.
	Limit float64
	// Want is what it would take, as far as that is known; 0: all it gets.
	Want float64
	// Urgent: its pod is frozen.
	Urgent bool
}

// Share is what one migration may take.
type Share struct {
	// Rate is bytes a second at most; 0: no limit.
	Rate float64
	// Held: its bulk waits.
	Held bool
}

// least is the part of the link below which it is not worth to let bulk go on beside a
// frozen pod.
const least = 1.0 / 64

// Divide divides a link of so many bytes a second among claims; 0: how fast the link is,
// is not known or does not matter. The shares are in the order of the claims.
func Divide(link float64, claims []Claim) []Share {
	shares := make([]Share, len(claims))
	var urgent, bulk []int
	for i, c := range claims {
		if c.Urgent {
			urgent = append(urgent, i)
		} else {
			bulk = append(bulk, i)
		}
	}
	if link <= 0 {
		for i, c := range claims {
			shares[i] = Share{Rate: c.Limit, Held: !c.Urgent && len(urgent) > 0}
		}
		return shares
	}
	// What a frozen pod took before its freeze says nothing of what it takes now.
	left := fill(link, urgent, shares, func(i int) float64 { return claims[i].Limit })
	if len(urgent) > 0 && left < least*link {
		for _, i := range bulk {
			shares[i].Held = true
		}
		return shares
	}
	left = fill(left, bulk, shares, func(i int) float64 { return lesser(claims[i].Limit, claims[i].Want) })
	// What nobody wants is there for who wants more before the next division.
	for _, i := range bulk {
		shares[i].Rate = lesser(claims[i].Limit, shares[i].Rate+left/float64(len(bulk)))
	}
	return shares
}

// fill divides a link among some claims, max-min fair, by the most that each takes, 0
// being all. It returns what is left.
func fill(link float64, claims []int, shares []Share, most func(int) float64) float64 {
	byNeed := slices.Clone(claims)
	slices.SortStableFunc(byNeed, func(a, b int) int {
		switch x, y := most(a), most(b); {
		case x == y:
			return 0
		case y == 0 || x != 0 && x < y:
			return -1
		}
		return 1
	})
	for n, i := range byNeed {
		shares[i].Rate = lesser(most(i), link/float64(len(byNeed)-n))
		link -= shares[i].Rate
	}
	return max(0, link)
}

// lesser is the lesser of two limits, of which 0 is none.
func lesser(a, b float64) float64 {
	switch {
	case a == 0:
		return b
	case b == 0:
		return a
	}
	return min(a, b)
}

// Differs says whether a share is another one than was told, by so much that it is worth
// to tell.
func Differs(told, now Share) bool {
	const worth = 1.0 / 50
	if told.Held != now.Held || (told.Rate == 0) != (now.Rate == 0) {
		return true
	}
	d := now.Rate - told.Rate
	return max(d, -d) > worth*told.Rate
}
