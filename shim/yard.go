package shim

import (
	"path/filepath"
	"strings"

	"godwit.dev/godwit/shim/criu"
)

// yardFlag, among the arguments of helperShow, has what it executes find criu.YardDir empty.
const yardFlag = "--own-yard"

// takeYard takes the flag off the arguments of helperShow.
func takeYard(args []string) (rest []string, ownYard bool) {
	if len(args) > 0 && args[0] == yardFlag {
		return args[1:], true
	}
	return args, false
}

// ownsYard says whether the container's runc and CRIU can be given an empty criu.YardDir: if nothing that they need is there. paths are what
// they need besides the container's own. Hooks of its specification may need anything.
func (c *container) ownsYard(paths ...string) bool {
	if c.hooks {
		return false
	}
	runc, err := c.runtime()
	if err != nil {
		return false
	}
	paths = append(paths, c.bundle, c.rootfs(), runc.Root, runc.Command)
	for _, m := range c.mounts {
		paths = append(paths, m.Source)
	}
	for _, path := range paths {
		if inYard(path) {
			return false
		}
	}
	return true
}

// inYard says whether a path leads to criu.YardDir or below it. One that is no path of a file, or not there, does not.
func inYard(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	return strings.HasPrefix(filepath.Clean(path)+"/", criu.YardDir+"/")
}
