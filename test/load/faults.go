// SPDX-License-Identifier: MPL-2.0

package main

import (
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// randomFaults makes a share of a workspace's answers fail, chosen at random.
//
// Each fault acts once, after a random number of requests, and is then injected anew. The numbers have the geometric
// distribution, so this is the same as deciding each request by itself. The few requests that arrive between a fault and its
// successor are let through, so with many clients the share that is reached is a little smaller.
type randomFaults struct {
	workspace *simulator.Workspace

	mu     sync.Mutex
	random map[int]*rand.Rand // by HTTP status, so that the order of concurrent requests doesn't mix their numbers
	shares map[int]float64    // by HTTP status
	next   map[int]*simulator.InjectedFault
}

func newRandomFaults(seed int, shares map[int]float64) *randomFaults {
	f := &randomFaults{random: map[int]*rand.Rand{}, shares: shares, next: map[int]*simulator.InjectedFault{}}
	for status := range shares {
		f.random[status] = rand.New(rand.NewPCG(uint64(seed), uint64(status)))
	}
	return f
}

// start lets the faults begin at w, whose observer must pass all calls to observe.
func (f *randomFaults) start(w *simulator.Workspace) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.workspace = w
	for _, status := range slices.Sorted(maps.Keys(f.shares)) {
		f.inject(status)
	}
}

// observe injects the successor of the fault that acted on the call.
func (f *randomFaults) observe(c simulator.Call) {
	if !c.Fault {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inject(c.Status)
}

// inject sets the next fault with the status to work. The caller holds the mutex.
func (f *randomFaults) inject(status int) {
	offset := gap(f.random[status].Float64(), f.shares[status])
	fault := simulator.Fault{Status: status, Offset: offset, Times: 1}
	if status == http.StatusTooManyRequests {
		fault.Header = http.Header{"Retry-After": {"1"}}
	}
	if used := f.next[status]; used != nil {
		used.Clear()
	}
	f.next[status] = f.workspace.Inject(fault)
}

// gap returns how many requests succeed before one fails, if that share of them fails. u is uniform in [0, 1), and the share in
// (0, 1].
func gap(u, share float64) int {
	if share >= 1 {
		return 0
	}
	return int(math.Log1p(-u) / math.Log1p(-share))
}
