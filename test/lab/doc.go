// Package lab builds nodes on one machine: the ground on which Godwit's end-to-end tests, demo and bench stand.
//
// A node is a process tree with network, mount, UTS, IPC, PID and cgroup namespaces of its own, over a Debian root
// file system that all nodes share read-only, with a real containerd, a CNI bridge whose pods the other nodes and the
// host reach, and godwit-node kept alive by a small supervisor. The links between nodes can be given a rate and a delay.
//
// Every mount lives in a node's own mount namespace and every process below a node's own cgroup, so Down finds all there
// is from names alone, whatever was killed before and at whatever moment.
//
// The nodes can be a Kubernetes cluster (Options.Kubernetes): each has a kubelet and a kube-proxy, and the control plane has a
// machine of its own beside them. The programs come of the module in kubernetes/, built once into the cache. Volumes of claims
// (Cluster.AddVolume) are of the network storage in package storage, by a CSI driver that runs on every machine; Kubernetes's
// external-attacher, of the module in programs/, attaches and detaches them.
//
// The package knows nothing of migrations: it runs the project's binaries and leaves what they do to them. What PID 1 of
// a node does is in package nodeinit; the link with latency, for kernels without netem, is in package delayline.
package lab
