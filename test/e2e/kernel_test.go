package e2e

import (
	"strings"
	"testing"

	"godwit.dev/godwit/pagestream/pagemap"
	"godwit.dev/godwit/test/e2e/move"
	"godwit.dev/godwit/test/lab"
	"godwit.dev/godwit/test/workload"
)

// Kernels before 6.7 have soft-dirty bits and nothing newer; others have been built without those; some have both.
func TestANodeChoosesTheTrackerThatItsKernelHasAndSaysWhy(t *testing.T) {
	engine, why := "None", "stop-and-copy"
	switch {
	case pagemap.ProbeScan() == nil && pagemap.ProbeWPAsync() == nil:
		engine, why = "WriteProtect", "the kernel has PAGEMAP_SCAN"
	case pagemap.ProbeSoftDirty() == nil:
		engine, why = "SoftDirty", "the kernel lacks PAGEMAP_SCAN and asynchronous write-protection by userfaultfd and has soft-dirty bits"
	}
	a, b := nodes(t)
	out, err := a.Exec(t.Context(), "godwitctl", "check")
	if err != nil {
		t.Errorf("godwitctl check: %v", err)
	}
	if !strings.Contains(string(out), engine+": "+why) {
		t.Errorf("godwitctl check does not say that it is %s: %s", engine, why)
	}
	t.Logf("%s", out)
	p := runPod(t, a, lab.PodSpec{Name: "chosen", Containers: []lab.ContainerSpec{container(t, workload.Ticker, workload.Port)}})
	ctx := within(t, moveTimeout)
	m, err := move.Start(ctx, a, p.name, b.Name, "--tracker", "auto")
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.AwaitFunc(ctx, func(e move.Event) bool { return strings.Contains(e.Message, "engine "+engine+": "+why) })
	if err != nil {
		t.Errorf("no event says why it is %s: %v", engine, err)
	}
	result, err := m.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if result.Engine != engine {
		t.Errorf("moved by engine %s, the kernel is for %s", result.Engine, engine)
	}
}
