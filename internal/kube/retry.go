package kube

import (
	"time"

	"k8s.io/client-go/util/workqueue"
)

// Retries is how soon a controller tries again what has failed: from 50 ms, twice as long each time, to half a minute, for an API
// server that was away may be back at any time. The default of controller-runtime goes up to 17 minutes.
func Retries[Request comparable]() workqueue.TypedRateLimiter[Request] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[Request](50*time.Millisecond, 30*time.Second)
}
