// Package e2e moves pods between nodes of the lab, end to end: real containerd, real CRIU, godwitctl as an operator runs it.
// Every test says what holds of a pod that was moved, or of the two nodes when a move breaks.
//
// It has tests only. They bring a lab of their own up, in GODWIT_E2E_DIR, and take it down at their end unless
// GODWIT_E2E_KEEP is set: then the next run finds it. They need root and the project's binaries (make build).
package e2e
