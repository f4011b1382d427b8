package testenv

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"k8s.io/client-go/rest"
)

// lagVariable has all watches lag by the duration that it is. See [Lag].
const lagVariable = "ISTHMUS_WATCH_LAG"

// lagOfAll is by how much all watches lag; zero if they need not.
func lagOfAll() (time.Duration, error) {
	given := os.Getenv(lagVariable)
	if given == "" {
		return 0, nil
	}
	most, err := time.ParseDuration(given)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", lagVariable, err)
	}
	return most, nil
}

// Lag returns a way to the API server of cfg whose watches tell of a change later than it answers who made it: by half of most or more,
// anew for each piece that is read, of which a large object has several. That caches are behind what others are told, and not one as the other, finds wake-ups that are lost.
func Lag(cfg *rest.Config, most time.Duration) *rest.Config {
	slow := rest.CopyConfig(cfg)
	if most > 0 {
		slow.Wrap(func(next http.RoundTripper) http.RoundTripper { return lagging{next, most} })
	}
	return slow
}

type lagging struct {
	http.RoundTripper
	most time.Duration
}

func (l lagging) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.RoundTripper.RoundTrip(r)
	if err == nil && r.URL.Query().Has("watch") {
		res.Body = laggingBody{res.Body, l.most}
	}
	return res, err
}

type laggingBody struct {
	io.ReadCloser
	most time.Duration
}

func (b laggingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	time.Sleep(b.most/2 + rand.N(b.most)/2)
	return n, err
}
