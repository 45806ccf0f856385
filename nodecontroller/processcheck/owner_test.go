package processcheck

import (
	"strings"
	"testing"

	"godwit.dev/godwit/nodecontroller/obstacle"
)

func TestOnlyProcessesOfOthersNeedTheCapabilityToReadLimits(t *testing.T) {
	const node, below = "user:[1]", "user:[2]"
	for name, c := range map[string]struct {
		rootOnly, root bool
		namespace      string
		state          byte
		refused        bool
	}{
		"root's":                    {true, true, node, 'S', false},
		"another's":                 {true, false, node, 'S', true},
		"another's, with it":        {false, false, node, 'S', false},
		"another's, in a namespace": {true, false, below, 'S', false},
		"another's, that has ended": {true, false, node, 'Z', false},
	} {
		p := Process{PID: 7, PIDInside: 1, State: c.state, Root: c.root, Namespaces: map[string]string{"user": c.namespace}}
		s := &Snapshot{RootOnly: c.rootOnly, UserNamespace: node, Containers: []ContainerState{{Name: "web", Processes: []Process{p}}}}
		said := obstacle.List(obstacle.Refusals(Judge(s)))
		if strings.Contains(said, "CAP_SYS_RESOURCE") != c.refused {
			t.Errorf("%s: %q", name, said)
		}
	}
}

func TestUsersOfAStatusAreRootIfAllThreeAre(t *testing.T) {
	for ids, want := range map[string]bool{
		"0\t0\t0\t0": true, "0\t0\t0\t33": true, "33\t0\t0\t0": false, "0\t33\t0\t0": false, "0\t0\t33\t0": false, "0\t0": false, "": false,
	} {
		if allRoot(ids) != want {
			t.Errorf("%q: %v", ids, !want)
		}
	}
}
