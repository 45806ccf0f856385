// Package load drives workloads while they are moved, and judges what the move
// did to them: a redis writer that remembers every acknowledged write and
// verifies all of them afterwards, and the gap that it saw. It knows nothing of
// nodes or migrations: it is told addresses.
package load
