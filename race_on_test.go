//go:build race

package drover_test

const raceDetector = true
