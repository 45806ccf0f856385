// Package tmpfs carries the file systems in memory that a container has of its own, such as /dev, from the node that it leaves
// to the one that it goes to. CRIU would archive and compress each of them while the container is frozen. Here they are
// external to CRIU: they are written down beside its images as records of package filetree, and filled in from them
// before CRIU binds them into the restored container.
//
// The package knows nothing of CRIU and of migrations: what a mount is called in CRIU's options, and when a container is
// frozen, is its caller's.
package tmpfs
