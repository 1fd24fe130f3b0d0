// SPDX-License-Identifier: MPL-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"
)

// load is the outcome of many requests.
type load struct {
	PerSecond float64
	P50, P99  time.Duration
}

// run calls do n times from clients goroutines, and fails with the first error.
func run(n, clients int, do func(i int) error) (load, error) {
	latencies := make([]time.Duration, n)
	var next atomic.Int64
	var first atomic.Pointer[error]
	var group sync.WaitGroup
	started := time.Now()
	for range clients {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n || first.Load() != nil {
					return
				}
				begin := time.Now()
				if err := do(i); err != nil {
					first.CompareAndSwap(nil, &err)
				}
				latencies[i] = time.Since(begin)
			}
		})
	}
	group.Wait()
	wall := time.Since(started)
	if err := first.Load(); err != nil {
		return load{}, *err
	}
	slices.Sort(latencies)
	return load{PerSecond: float64(n) / wall.Seconds(), P50: latencies[n/2], P99: latencies[(n-1)*99/100]}, nil
}

// mint returns a function that reads the path, which must answer a lease.
func mint(client *api.Client, path string) func(int) error {
	return func(int) error {
		secret, err := client.Logical().Read(path)
		if err == nil && (secret == nil || secret.LeaseID == "") {
			err = fmt.Errorf("%s returned no lease", path)
		}
		return err
	}
}

// revokePrefix revokes n leases of the path and returns how many a second.
func revokePrefix(client *api.Client, path string, n int) (float64, error) {
	started := time.Now()
	if _, err := client.Logical().Write("sys/leases/revoke-prefix/"+path, map[string]any{"sync": true}); err != nil {
		return 0, err
	}
	return float64(n) / time.Since(started).Seconds(), nil
}

// bareCall returns the median latency of a token create by net/http, without an engine: the least that any engine has to wait for.
func bareCall(url string, n int) (time.Duration, error) {
	body := []byte(`{"lifetime_seconds":7260,"comment":"x"}`)
	outcome, err := run(n, 1, func(int) error {
		resp, err := http.Post(url+"/api/2.0/token/create", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return err
	})
	return outcome.P50, err
}
