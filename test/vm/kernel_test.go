package main

import (
	"slices"
	"testing"
)

func TestAnOptionThatIsAModuleIsLacking(t *testing.T) {
	const config = "# CONFIG_A is not set\nCONFIG_B=y\nCONFIG_C=m\nCONFIG_BB=y\n"
	if have := lacks(config, []string{"A", "B", "C", "D", "BB"}); !slices.Equal(have, []string{"A", "C", "D"}) {
		t.Errorf("lacks %q", have)
	}
	if have := lacks("", kernelOptions); len(have) != len(kernelOptions) {
		t.Errorf("no configuration lacks %d of %d", len(have), len(kernelOptions))
	}
}

func TestModulesAreLoadedFromTheInnermostOn(t *testing.T) {
	const dep = "kernel/fs/overlayfs/overlay.ko.xz:\n" +
		"kernel/net/bridge/bridge.ko.xz: kernel/net/802/stp.ko.xz kernel/net/llc/llc.ko.xz\n"
	for name, want := range map[string][]string{
		"overlay": {"kernel/fs/overlayfs/overlay.ko.xz"},
		"bridge":  {"kernel/net/llc/llc.ko.xz", "kernel/net/802/stp.ko.xz", "kernel/net/bridge/bridge.ko.xz"},
		"ext4":    nil, // built in
	} {
		if have := dependencies(dep, name); !slices.Equal(have, want) {
			t.Errorf("%s: %q", name, have)
		}
	}
}

func TestTheKernelIsWhatThePackageDependsOn(t *testing.T) {
	for line, want := range map[string]string{
		"  Depends: linux-image-6.12.107+deb13-cloud-amd64": "linux-image-6.12.107+deb13-cloud-amd64",
		"  Depends: linux-base-cloud-amd64":                 "",
		" Recommends: linux-image-6.12.107-cloud-amd64":     "",
	} {
		have := ""
		if m := kernelDependency.FindStringSubmatch(line); m != nil {
			have = m[1]
		}
		if have != want {
			t.Errorf("%q: %q", line, have)
		}
	}
}

func TestKVMNeedsTheProcessorsHelp(t *testing.T) {
	for cpuinfo, want := range map[string]bool{
		"flags\t\t: fpu vme svm\n":                 true,
		"flags\t\t: fpu vmx\nvmx flags\t: x\n":     true,
		"model name\t: x\nflags\t\t: fpu svm_lock": false,
		"bugs\t: vmx": false,
		"":            false,
	} {
		if have := virtualizes(cpuinfo); have != want {
			t.Errorf("%q: %v", cpuinfo, have)
		}
	}
}
