package criunode

import (
	"fmt"
	"path/filepath"
)

// Program is how criu is started on this machine itself, for processes that are no node's: from the root file system that New takes,
// with that one's loader and libraries. An error wraps ErrUnavailable if there is none.
func Program() ([]string, error) {
	root, err := findRoot()
	if err != nil {
		return nil, err
	}
	if root == "/" {
		return []string{"criu"}, nil
	}
	loaders, _ := filepath.Glob(filepath.Join(root, "usr/lib*/ld-linux-*.so.*")) // no other error than that of a bad pattern
	libraries, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu"))
	if len(loaders) == 0 || len(libraries) == 0 {
		return nil, fmt.Errorf("%s has no loader or no libraries for its criu: %w", root, ErrUnavailable)
	}
	return []string{loaders[0], "--library-path", libraries[0], filepath.Join(root, "usr/sbin/criu")}, nil
}
