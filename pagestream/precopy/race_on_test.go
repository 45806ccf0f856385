//go:build race

package precopy

// raceDetector says that sync.Pool drops things at random.
const raceDetector = true
