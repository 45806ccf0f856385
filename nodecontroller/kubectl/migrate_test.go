package kubectl

import (
	"strings"
	"testing"
	"time"

	"godwit.dev/godwit/nodecontroller/api/v1alpha1"
)

func TestFlagsBecomeASpec(t *testing.T) {
	root := newRoot()
	migrate, _, err := root.Find([]string{"migrate"})
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{"to", "mode", "tracker", "max-rounds", "max-time", "dirty-limit", "rule", "downtime-limit", "on-stall", "timeout", "bandwidth", "priority", "compression", "keep-source-on-failure", "wait", "json", "kubeconfig", "context", "namespace"} {
		if migrate.Flag(flag) == nil && migrate.InheritedFlags().Lookup(flag) == nil {
			t.Errorf("there is no --%s", flag)
		}
	}
	r := request{
		pod: "cache-0", to: "b", mode: "live", tracker: "write-protect", compression: "lz4", maxRounds: 7, rule: "s0", onStall: "abort", downtimeLimit: 200 * time.Millisecond,
		maxTime: time.Minute, timeout: time.Hour,
	}
	if err := r.dirtyLimit.Set("4Mi"); err != nil {
		t.Fatal(err)
	}
	if err := r.bandwidth.Set("100MiB"); err != nil {
		t.Fatal(err)
	}
	m, err := r.object()
	if err != nil {
		t.Fatal(err)
	}
	s := m.Spec
	if m.GenerateName != "cache-0-" || s.PodName != "cache-0" || s.TargetNode != "b" || s.Mode != v1alpha1.ModeLive || s.Tracker != v1alpha1.TrackerWriteProtect ||
		s.Compression != v1alpha1.CompressionLZ4 || s.PreCopy.MaxRounds != 7 || s.PreCopy.MaxDuration.Duration != time.Minute ||
		s.PreCopy.DirtyLimit.Value() != 4<<20 || s.PreCopy.Rule != v1alpha1.RuleS0 || s.PreCopy.OnStall != v1alpha1.OnStallAbort || s.PreCopy.DowntimeLimit.Duration != 200*time.Millisecond || s.Timeout.Duration != time.Hour || s.Bandwidth.Value() != 100<<20 || *s.KeepSourceOnFailure {
		t.Errorf("%+v", m)
	}
}

func TestWhatIsNotSaidIsLeftToTheAPI(t *testing.T) {
	m, err := request{pod: "p", tracker: "auto", keepSource: true}.object()
	if err != nil {
		t.Fatal(err)
	}
	if s := m.Spec; s.Mode != "" || s.PreCopy != nil || s.Timeout != nil || s.Bandwidth != nil || s.Tracker != v1alpha1.TrackerAuto || !*s.KeepSourceOnFailure {
		t.Errorf("%+v", s)
	}
	if m, err = (request{pod: "p", tracker: "none"}).object(); err != nil || m.Spec.Mode != v1alpha1.ModeCold {
		t.Errorf("without a tracker: %+v, %v", m, err)
	}
}

func TestFlagsThatMeanNothingAreRefused(t *testing.T) {
	for _, r := range []request{
		{pod: "p", mode: "warm"}, {pod: "p", compression: "zip"}, {pod: "p", tracker: "magic"},
	} {
		if _, err := r.object(); err == nil || !strings.HasPrefix(err.Error(), "--") {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, s := range []string{"", "bananas", "0", "-1Mi"} {
		if err := new(amount).Set(s); err == nil {
			t.Errorf("%q is an amount", s)
		}
	}
}

func TestNamesFitWhateverThePodIsCalled(t *testing.T) {
	for pod, want := range map[string]string{
		"cache-0":                           "cache-0-",
		strings.Repeat("x", 253):            strings.Repeat("x", 57) + "-",
		strings.Repeat("x", 56) + ".yyyyyy": strings.Repeat("x", 56) + "-",
		strings.Repeat("x", 56) + "-yyyyyy": strings.Repeat("x", 56) + "-",
	} {
		if got := namePrefix(pod); got != want {
			t.Errorf("%s: %s, want %s", pod, got, want)
		}
	}
}
