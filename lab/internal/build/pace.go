package build

import "time"

// usualPace is a cold compilation of all programs on two cores with a full
// module cache. The cache remembers this machine's own.
var usualPace = pace{
	Packages: 4540,
	Total:    6*time.Minute + 30*time.Second,
	Shares: []float64{
		0.02, 0.05, 0.08, 0.13, 0.18, 0.20, 0.23, 0.27, 0.28, 0.30,
		0.36, 0.41, 0.48, 0.62, 0.66, 0.71, 0.75, 0.81, 0.90, 1,
	},
}
