package criu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// ConfigAnnotation names, in a container's OCI annotations, the configuration
// file that runc hands to CRIU; what it says wins over what runc says
// (criu/cr-service.c, setup_opts_from_req). A missing file is ignored.
const ConfigAnnotation = "org.criu.config"

// systemConfig is the file that runc names when there is no annotation
// (runc: libcontainer/criu_linux.go, handleCriuConfigurationFile).
const systemConfig = "/etc/criu/runc.conf"

// ghostLimit bounds the content of one file that is open and deleted: CRIU
// carries it in its images, its own limit of 1 MiB is too small for databases.
const ghostLimit = "1G"

// CRIU takes in what its user configured before it hears runc's request, and the file that the request names after it. An option of the former
// is overruled by what runc says; in the latter, CRIU up to 4.1 reads everything twice, so that an action script is called twice
// (criu/cr-service.c, setup_opts_from_req), and up to 4.2.0 `network-lock` makes it read an argument that is not there and crash
// (criu/config.c, parse_options). Hence two files.

// userConfig is the former, below CRIU's HOME (criu/config.c, init_config).
const userConfig = ".criu/default.conf"

// overruling is what runc says otherwise, for both sides of a move. Cgroups are
// ignored because the new container is in its own already, and reading them costs
// 5 to 43 ms; established connections are closed on restore so that peers reconnect.
// (An option whose value may be left out needs the equals sign.)
var overruling = []string{"manage-cgroups=ignore", "tcp-close", "file-locks"}

// dumpConfig is what a dump's request is overruled with.
func dumpConfig() []string {
	return append([]string{
		"link-remap",
		"skip-in-flight", // connections nobody has accepted yet: their peers try again
		"ghost-limit " + ghostLimit,
	}, overruling...)
}

// restoreConfig is what a restore's request is overruled with.
func restoreConfig(lazy bool) []string {
	if !lazy {
		return overruling
	}
	return append([]string{"lazy-pages"}, overruling...)
}

// External is a mount that CRIU neither dumps nor makes. It is looked up by its path when the container is dumped, and by the
// name that the images have then when it is restored (criu/mount.c, try_resolve_ext_mount, get_mp_root).
type External struct {
	// Key is what it is looked up by.
	Key string
	// Value is the name that the images get, or what is bound in its place.
	Value string
}

// config are the files that one CRIU is to read.
type config struct {
	// path is that of the file which the container's ConfigAnnotation names.
	path string
	// variant tells what else is read apart, of two that are there at a time.
	variant string
}

// home is the directory that CRIU is given as its user's.
func (c config) home() string { return c.path + c.variant + ".home" }

// bin is the directory with StandIn's names.
func (c config) bin() string { return c.path + c.variant + ".bin" }

// environment adds, to that of a command below which CRIU runs, what has it read its user's configuration here, and find StandIn before other programs.
func (c config) environment(env []string) []string {
	path := c.bin()
	for _, v := range env { // the last one is heard
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = c.bin() + string(os.PathListSeparator) + value
		}
	}
	return append(env, "HOME="+c.home(), "PATH="+path, EnvStandIns+"="+c.bin())
}

// relay makes a relay, and what stands in for CRIU.
func (c config) relay(of traits, stages ...Stage) (*Relay, error) {
	if err := placeStandIns(c.bin()); err != nil {
		return nil, err
	}
	r, err := newRelay(c.bin(), of, stages...)
	if err != nil {
		os.RemoveAll(c.bin())
		return nil, err
	}
	return r, nil
}

// write writes the files: what this machine has configured first, which ours hide, then ours. Action scripts, wherever the machine has them
// configured, are in the file that CRIU reads once.
func (c config) write(r *Relay, external []External, lines []string) error {
	m, err := readConfigured()
	if err != nil {
		return err
	}
	if err := writeConfig(c.path, m.system, lines); err != nil {
		return err
	}
	path := filepath.Join(c.home(), userConfig)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("directory for CRIU's configuration: %w", err)
	}
	once := r.configure(m.user, m.scripts)
	for _, e := range external {
		once = append(once, "external mnt["+e.Key+"]:"+e.Value)
	}
	return writeConfig(path, once)
}

// configured is what this machine has configured: lines of the two files, without those that name action scripts.
type configured struct{ system, user, scripts []string }

func readConfigured() (m configured, err error) {
	if m.system, err = readConfig(systemConfig); err != nil {
		return m, err
	}
	scripts, system := actionScripts(m.system)
	if home := os.Getenv("HOME"); home != "" {
		if m.user, err = readConfig(filepath.Join(home, userConfig)); err != nil {
			return m, err
		}
	}
	usersScripts, user := actionScripts(m.user)
	return configured{system: system, user: user, scripts: slices.Concat(usersScripts, scripts)}, nil
}

func (c config) remove() {
	os.Remove(c.path)
	os.RemoveAll(c.home())
	os.RemoveAll(c.bin())
}

// readConfig gives the lines of a file, none if there is no such file.
func readConfig(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("read CRIU's configuration: %w", err)
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), nil
}

// actionScripts takes the lines that name action scripts from among others.
func actionScripts(lines []string) (scripts, others []string) {
	for _, line := range lines {
		words := strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || r == '=' })
		if len(words) > 0 && words[0] == "action-script" {
			scripts = append(scripts, line)
		} else {
			others = append(others, line)
		}
	}
	return scripts, others
}

func writeConfig(path string, parts ...[]string) error {
	text := strings.Join(slices.Concat(parts...), "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write CRIU configuration: %w", err)
	}
	return nil
}
