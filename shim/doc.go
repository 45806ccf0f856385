// Package shim is the containerd runtime shim io.containerd.godwit.v2: the
// runc shim's task service as it is, plus the Migration service by which the
// node daemon moves the shim's pod to another node or receives one.
//
// With no migration in sight it behaves as runc's shim does. It leaves finding
// and copying pages to pagestream, files to filetree, CRIU to shim/criu, and
// everything that concerns another node but the data itself to the node daemon.
package shim
