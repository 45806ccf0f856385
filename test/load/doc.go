// Package load drives workloads while they are moved, and judges what the move
// did to them: a writer of redis, memcached or PostgreSQL that remembers every
// acknowledged write and verifies all of them afterwards, one that only asks for
// answers, and the gap that they saw. It knows nothing of nodes or migrations: it is told
// addresses.
package load
