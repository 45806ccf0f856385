//go:build !race

package precopy

const raceDetector = false
