// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// BenchmarkCreateAndDelete shows that the simulator is no bottleneck, however
// many tokens it holds.
func BenchmarkCreateAndDelete(b *testing.B) {
	for name, held := range map[string]int{"empty": 0, "100k": 100_000} {
		b.Run(name, func(b *testing.B) {
			w := start(b, simulator.WithoutCallLog(), simulator.WithTokenQuota(1<<30))
			alice := w.AddUser("alice@example.com", true)
			root, _ := w.AddToken(alice, "root", 0)
			for range held {
				w.AddToken(alice, "held", time.Hour)
			}
			transport := &http.Transport{MaxIdleConnsPerHost: 256}
			defer transport.CloseIdleConnections()
			post := func(path, body string) string {
				req, err := http.NewRequest("POST", w.URL()+path, strings.NewReader(body))
				if err != nil {
					b.Error(err)
					return ""
				}
				req.Header.Set("Authorization", "Bearer "+root)
				resp, err := transport.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return ""
				}
				defer resp.Body.Close()
				answer, _ := io.ReadAll(resp.Body)
				if resp.StatusCode != http.StatusOK {
					b.Errorf("%s: %s", path, answer)
				}
				return string(answer)
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_, rest, _ := strings.Cut(post(pathCreate, `{"lifetime_seconds":3600}`), `"token_id":"`)
					id, _, _ := strings.Cut(rest, `"`)
					post(pathDelete, `{"token_id":"`+id+`"}`)
				}
			})
		})
	}
}
