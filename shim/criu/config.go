package criu

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"godwit.dev/godwit/pagestream/criuversion"
)

// ConfigAnnotation names, in a container's OCI annotations, the configuration
// file that runc hands to CRIU; what it says wins over what runc says
// (criu/cr-service.c, setup_opts_from_req). A missing file is ignored.
const ConfigAnnotation = "org.criu.config"

// systemConfig is what runc names when there is no annotation
// (runc: libcontainer/criu_linux.go, handleCriuConfigurationFile).
const systemConfig = "/etc/criu/runc.conf"

// ghostLimit bounds the content of one file that is open and deleted: CRIU
// carries it in its images, its own limit of 1 MiB is too small for databases.
const ghostLimit = "1G"

// commonConfig holds for both sides of a move. Cgroups are ignored because the
// new container is in its own already, and reading them costs 5 to 43 ms;
// established connections are closed on restore so that peers reconnect. (An
// option whose value may be left out needs the equals sign.) A CRIU that cannot
// leave the network alone locks it with iptables for the time of the dump.
func commonConfig(v criuversion.Version) []string {
	lines := []string{
		"manage-cgroups=ignore",
		"tcp-close",
		"file-locks",
	}
	if v.LeavesNetwork() {
		lines = append(lines, "network-lock skip")
	}
	return lines
}

// External is a mount that CRIU neither dumps nor makes. It is looked up by its path when the container is dumped, and by the
// name that the images have then when it is restored (criu/mount.c, try_resolve_ext_mount, get_mp_root).
type External struct {
	// Key is what it is looked up by.
	Key string
	// Value is the name that the images get, or what is bound in its place.
	Value string
}

func externalConfig(external []External) []string {
	var lines []string
	for _, e := range external {
		lines = append(lines, "external mnt["+e.Key+"]:"+e.Value)
	}
	return lines
}

func dumpConfig(script string, v criuversion.Version, external []External) []string {
	return slices.Concat([]string{
		"action-script " + script,
		"link-remap",
		"skip-in-flight", // connections nobody has accepted yet: their peers try again
		"ghost-limit " + ghostLimit,
	}, commonConfig(v), externalConfig(external))
}

func restoreConfig(script string, v criuversion.Version, lazy bool, external []External) []string {
	lines := slices.Concat([]string{"action-script " + script}, commonConfig(v), externalConfig(external))
	if lazy {
		lines = append(lines, "lazy-pages")
	}
	return lines
}

// writeConfig writes a configuration: the machine's own for runc first, which
// the annotation would otherwise hide, then lines.
func writeConfig(path string, lines []string) error {
	own, err := os.ReadFile(systemConfig)
	if err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("read CRIU's configuration for runc: %w", err)
	}
	text := string(own)
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	text += strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("write CRIU configuration: %w", err)
	}
	return nil
}
