package steps

import "testing"

func TestChoosesByName(t *testing.T) {
	all := []Step[int]{{Name: "one"}, {Name: "two"}, {Name: "three"}}
	for _, c := range []struct {
		only string
		want string // names; empty for an error
	}{
		{"", "one, two, three"},
		{"two", "two"},
		{"three,one", "three, one"},
		{"two,four", ""},
		{"two,", ""},
	} {
		got, err := Choose(all, c.only)
		if names := Names(got); names != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%q chooses %q, error %v, want %q", c.only, names, err, c.want)
		}
	}
}

func TestNodesAreNeededIfOneStepNeedsThem(t *testing.T) {
	replay, move := Step[int]{Name: "replay", Alone: true}, Step[int]{Name: "move"}
	if NeedNodes([]Step[int]{replay}) || !NeedNodes([]Step[int]{replay, move}) {
		t.Error("not told by the steps")
	}
}
