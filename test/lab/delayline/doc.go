// Package delayline is a link with latency for kernels without netem: two TAP devices and a process between them that
// holds each frame for as long as the link is long. Frames carry their offload headers through, so TCP passes in pieces of
// 64 KiB and one core moves several Gbit/s.
//
// It delays what leaves the node (the near TAP) and nothing that arrives, as netem on the node's interface would; frames
// for one exempt address, the host's, pass at once. Rates are left to tc.
package delayline
