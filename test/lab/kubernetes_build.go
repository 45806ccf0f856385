package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// kubernetesPrograms are the names under which the one program of the module in test/lab/kubernetes is called.
var kubernetesPrograms = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// kubernetesTags are those of Kubernetes's releases (hack/lib/golang.sh), and gRPC's without its request pages, which keep the linker
// from dropping anything.
const kubernetesTags = "-tags=selinux,notest,grpcnotrace"

// EnvKubernetes names a directory with Kubernetes's programs, to be taken as they are instead of built.
const EnvKubernetes = "GODWIT_LAB_KUBERNETES"

// errNoSource is returned where there is no checkout of the project: in a virtual machine, say.
var errNoSource = errors.New("no source of test/lab/kubernetes above the working directory, the binaries or this program")

// KubernetesBin returns the directory with Kubernetes's programs, for who needs some of them without a lab; see Cluster.Bin.
func KubernetesBin(ctx context.Context) (string, error) {
	lo, err := newLayout("")
	if err != nil {
		return "", err
	}
	l := &Lab{layout: lo, log: slog.New(slog.DiscardHandler)}
	return l.kubernetesBin(ctx)
}

// kubernetesBin returns the directory with Kubernetes's programs, building them the first time: for some minutes, with
// two processors and no build cache. Without the source it takes the newest that the cache has.
func (l *Lab) kubernetesBin(ctx context.Context) (string, error) {
	if dir := os.Getenv(EnvKubernetes); dir != "" {
		return givenKubernetes(dir)
	}
	source, err := kubernetesSource(l.bin)
	if errors.Is(err, errNoSource) {
		return l.newestKubernetes()
	}
	if err != nil {
		return "", err
	}
	key, version, err := kubernetesKey(source)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(l.kubernetesCache(), key)
	if isDir(dir) {
		return dir, nil
	}
	release, err := flock(ctx, filepath.Join(l.cache, "locks", "kubernetes"))
	if err != nil {
		return "", err
	}
	defer release()
	if isDir(dir) {
		return dir, nil
	}
	l.log.Info("building Kubernetes, once", "version", version)
	err = atomicDir(dir, func(tmp string) error { return buildKubernetes(ctx, source, version, tmp) })
	if err != nil {
		return "", fmt.Errorf("build Kubernetes %s: %w", version, err)
	}
	return dir, nil
}

// givenKubernetes checks that a directory has all programs.
func givenKubernetes(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%s: %w", EnvKubernetes, err)
	}
	for _, program := range kubernetesPrograms {
		if _, err := exec.LookPath(filepath.Join(dir, program)); err != nil {
			return "", fmt.Errorf("%s: program %s: %w", EnvKubernetes, program, err)
		}
	}
	return dir, nil
}

func (l layout) kubernetesCache() string { return filepath.Join(l.cache, "kubernetes") }

// newestKubernetes is the build that was made last.
func (l layout) newestKubernetes() (string, error) {
	return newestBuild(l.kubernetesCache(), "Kubernetes")
}

// newestBuild is the directory of a cache of builds that was made last.
func newestBuild(cache, of string) (string, error) {
	entries, err := os.ReadDir(cache)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("builds of %s: %w", of, err)
	}
	newest, made := "", int64(0)
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if at := info.ModTime().UnixNano(); at > made {
			newest, made = filepath.Join(cache, e.Name()), at
		}
	}
	if newest == "" {
		return "", fmt.Errorf("the cache has no build of %s, and %w", of, errNoSource)
	}
	return newest, nil
}

// kubernetesSource finds the module's directory in the checkout that the working directory, the project's binaries or the
// running program is in.
func kubernetesSource(bin string) (string, error) {
	var starts []string
	if wd, err := os.Getwd(); err == nil {
		starts = append(starts, wd)
	}
	if bin != "" {
		starts = append(starts, bin)
	}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, start := range starts {
		for dir := start; ; dir = filepath.Dir(dir) {
			source := filepath.Join(dir, "test", "lab", "kubernetes")
			if _, err := os.Stat(filepath.Join(source, "go.mod")); err == nil {
				return source, nil
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return "", errNoSource
}

// requiredVersion finds the version of Kubernetes in go.mod.
var requiredVersion = regexp.MustCompile(`(?m)^(?:require)?\s+k8s\.io/kubernetes (v1\.(\d+)\.\S+)`)

// kubernetesKey names a build by all that it is made of: the module's files, its platform and the settings. It also
// gives the version of Kubernetes that go.mod asks for.
func kubernetesKey(source string) (key, version string, err error) {
	files, err := os.ReadDir(source)
	if err != nil {
		return "", "", fmt.Errorf("source of Kubernetes: %w", err)
	}
	sum := sha256.New()
	// Another way to build makes another program.
	fmt.Fprintln(sum, runtime.GOOS, runtime.GOARCH, fastBuild, kubernetesTags, kubernetesPrograms)
	for _, f := range files {
		name := f.Name()
		if !slices.Contains([]string{".go", ".mod", ".sum"}, filepath.Ext(name)) || strings.HasSuffix(name, "_test.go") {
			continue
		}
		content, err := os.ReadFile(filepath.Join(source, name))
		if err != nil {
			return "", "", fmt.Errorf("source of Kubernetes: %w", err)
		}
		fmt.Fprintf(sum, "%s %d\n%s", name, len(content), content)
		if m := requiredVersion.FindSubmatch(content); name == "go.mod" && m != nil {
			version = string(m[1])
		}
	}
	if version == "" {
		return "", "", fmt.Errorf("source of Kubernetes: %s/go.mod does not require k8s.io/kubernetes", source)
	}
	return version + "-" + hex.EncodeToString(sum.Sum(nil)[:6]), version, nil
}

// buildKubernetes builds the program into dir, with its names.
func buildKubernetes(ctx context.Context, source, version, dir string) error {
	const program = "kubernetes"
	if err := goBuild(ctx, source, kubernetesTags, "-ldflags="+kubernetesLinkFlags(version), "-o", filepath.Join(dir, program), "."); err != nil {
		return err
	}
	for _, name := range kubernetesPrograms {
		if err := os.Symlink(program, filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// kubernetesLinkFlags tell the program its version, which Kubernetes's own build does so: kubelet and API server compare
// theirs, and clients read it.
func kubernetesLinkFlags(version string) string {
	minor := strings.Split(version, ".")[1]
	return strings.Join([]string{
		"-s", "-w",
		"-X k8s.io/component-base/version.gitVersion=" + version,
		"-X k8s.io/component-base/version.gitMajor=1",
		"-X k8s.io/component-base/version.gitMinor=" + minor,
		"-X k8s.io/client-go/pkg/version.gitVersion=" + version,
	}, " ")
}
