// Package track finds out which pages of running processes were written since
// they were last asked for, without stopping the processes. A userfaultfd,
// created inside each process by ptrace, write-protects its memory
// asynchronously, and PAGEMAP_SCAN reads and renews the protection in one call.
//
// It tracks the memory that CRIU would leave to a lazy restore, see Lazy. Shared
// memory it leaves to the owner of the rounds, who compares contents; copying
// pages, deciding when a round is due and when to stop are package precopy's.
package track
