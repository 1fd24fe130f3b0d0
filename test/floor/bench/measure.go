// SPDX-License-Identifier: MPL-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"vault-plugin-secrets-databricks/test/floor/fake"
)

// clientCounts are the numbers of clients that mint at once.
var clientCounts = []int{1, 16, 64}

// engine is one of the plugins that are measured in turn.
type engine struct {
	name, plugin string
	setup        func(url, role string) []write
}

const floorName, ourName, peerName = "null plugin", "this engine", "Terraform engine"

// samples are the values of one measurement, one a round.
type samples []float64

// median returns the middle value, 0 for none.
func (s samples) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func (s samples) min() float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Min(s)
}

func (s samples) max() float64 {
	if len(s) == 0 {
		return 0
	}
	return slices.Max(s)
}

// ratios returns each round's value divided by the floor's of the same round.
func ratios(values, floor samples) samples {
	var r samples
	for i := range min(len(values), len(floor)) {
		r = append(r, values[i]/floor[i])
	}
	return r
}

// results has what was measured, by engine.
type results struct {
	engines []string

	rate    map[string]map[int]samples // mints a second, by number of clients
	p50     map[string]map[int]samples // median latency in ms
	revoked map[string]samples         // leases revoked by prefix a second
	cold    map[string]samples         // ms until the last of 1,000 requests at once was answered, after a reload
	mountKB map[string]float64         // memory of a further mount

	bare       samples // ms of the bare call upstream
	calls      float64 // to Databricks for each mint
	deletes    float64 // for each revocation
	tokens     int64   // fetches of an access token in one cold start
	pushMS     float64 // push of 1,000 keys at 20 ms
	logEntries int
	short      bool // too few requests for the docs

	// Medians in ms without and with the open entries.
	writeWithout, writeWith, mintWithout, mintWith float64
}

// bench runs the measurements on one server.
type bench struct {
	*server
	fake     *fake.Server
	engines  []engine
	rounds   int
	n        int
	progress io.Writer
	results
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }

// put appends a value of a round.
func put[K comparable](of map[string]map[K]samples, name string, key K, value float64) {
	if of[name] == nil {
		of[name] = make(map[K]samples)
	}
	of[name][key] = append(of[name][key], value)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// all runs every measurement. Engines take turns within each round, so that what disturbs the machine disturbs all of them.
func (b *bench) all() error {
	b.rate, b.p50 = make(map[string]map[int]samples), make(map[string]map[int]samples)
	b.revoked, b.cold, b.mountKB = make(map[string]samples), make(map[string]samples), make(map[string]float64)
	for _, e := range b.engines {
		b.results.engines = append(b.results.engines, e.name)
		if err := b.mount(e.plugin, e.plugin, e.setup(b.fake.URL, "x")); err != nil {
			return err
		}
		// So many that the heap has grown to where the garbage collector keeps it: that is no cost of a further mount.
		if _, err := run(2000, 8, mint(b.client, e.plugin+"/creds/x")); err != nil {
			return fmt.Errorf("warm up %s: %w", e.name, err)
		}
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"100 further mounts", b.mounts}, // first, since what mints leave in the heap would hide it
		{"mints", b.mints}, {"revocation by prefix", b.revocations}, {"cold starts", b.coldStarts}, {"a push of 1,000 keys", b.push},
		{"5,000 open entries of the log", b.longLog},
	} {
		b.say("measuring %s", step.what)
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if call := b.fake.Unexpected(); call != "" {
		return fmt.Errorf("a call that the fake does not know: %s", call)
	}
	return nil
}

func (b *bench) mints() error {
	before, minted := b.fake.Creates.Load(), 0
	for round := range b.rounds {
		bare, err := bareCall(b.fake.URL, b.n/4)
		if err != nil {
			return err
		}
		before += int64(b.n / 4)
		b.bare = append(b.bare, ms(bare))
		for _, clients := range clientCounts {
			n := b.n
			if clients == 1 {
				n /= 4
			}
			for _, e := range b.engines {
				outcome, err := run(n, clients, mint(b.client, e.plugin+"/creds/x"))
				if err != nil {
					return err
				}
				put(b.rate, e.name, clients, outcome.PerSecond)
				put(b.p50, e.name, clients, ms(outcome.P50))
				if e.name != floorName {
					minted += n
				}
				b.say("  round %d  %2d clients  %-16s  %6.0f/s  p50 %.2f ms  p99 %.2f ms", round+1, clients, e.name, outcome.PerSecond, ms(outcome.P50), ms(outcome.P99))
			}
		}
	}
	b.calls = float64(b.fake.Creates.Load()-before) / float64(minted)
	return nil
}

func (b *bench) revocations() error {
	before, revoked := b.fake.Deletes.Load(), 0
	for round := range b.rounds {
		for _, e := range b.engines {
			role := "y" + strconv.Itoa(round)
			for _, w := range e.setup(b.fake.URL, role) {
				if w.path == "config" {
					continue
				}
				if _, err := b.client.Logical().Write(e.plugin+"/"+w.path, w.data); err != nil {
					return err
				}
			}
			path := e.plugin + "/creds/" + role
			if _, err := run(b.n, 32, mint(b.client, path)); err != nil {
				return err
			}
			rate, err := revokePrefix(b.client, path, b.n)
			if err != nil {
				return err
			}
			b.revoked[e.name] = append(b.revoked[e.name], rate)
			if e.name != floorName {
				revoked += b.n
			}
			b.say("  round %d  %-16s  %6.0f/s", round+1, e.name, rate)
		}
	}
	b.deletes = float64(b.fake.Deletes.Load()-before) / float64(revoked)
	return nil
}

// coldStarts sends 1,000 requests at once to a plugin that was just reloaded. The engine connects as a service principal here, whose
// access token all of them need.
func (b *bench) coldStarts() error {
	const path = "cold"
	for _, e := range b.engines[:2] {
		writes := e.setup(b.fake.URL, "x")
		if e.name == ourName {
			writes[0].data = map[string]any{"host": b.fake.URL, "client_id": "6f5ccf28-d83a-4957-9bfb-5bbfac551410", "client_secret": "dose00000000000000000000000000000000"}
		}
		if err := b.mount(path+e.plugin, e.plugin, writes); err != nil {
			return err
		}
		for range b.rounds {
			if _, err := b.client.Logical().Write("sys/plugins/reload/backend", map[string]any{"mounts": path + e.plugin}); err != nil {
				return err
			}
			before := b.fake.Tokens.Load()
			started := time.Now()
			if _, err := run(1000, 1000, mint(b.client, path+e.plugin+"/creds/x")); err != nil {
				return err
			}
			b.cold[e.name] = append(b.cold[e.name], ms(time.Since(started)))
			if e.name == ourName {
				b.tokens = max(b.tokens, b.fake.Tokens.Load()-before)
			}
		}
		b.say("  %-16s  %.0f ms", e.name, b.cold[e.name].median())
	}
	return nil
}

func (b *bench) push() error {
	b.fake.PutDelay.Store(int64(20 * time.Millisecond))
	defer b.fake.PutDelay.Store(0)
	secrets := make(map[string]any)
	for i := range 1000 {
		secrets["key-"+strconv.Itoa(i)] = "value"
	}
	started := time.Now()
	if _, err := b.client.Logical().Write(ourPlugin+"/secrets/push", map[string]any{"secrets": secrets}); err != nil {
		return err
	}
	b.pushMS = ms(time.Since(started))
	b.say("  %.2f s; one after the other they take 20 s at least", b.pushMS/1000)
	return nil
}

// longLog leases secrets, each of which is an open entry of the write-ahead log until it is revoked.
func (b *bench) longLog() error {
	const scopeSize = 50
	b.logEntries = 5000
	if b.short {
		b.logEntries = 500
	}
	measure := func(write, minted *float64) error {
		outcome, err := run(500, 1, func(i int) error {
			_, err := b.client.Logical().Write(ourPlugin+"/secrets/measured/k", map[string]any{"string_value": strconv.Itoa(i)})
			return err
		})
		if err != nil {
			return err
		}
		*write = ms(outcome.P50)
		if outcome, err = run(500, 1, mint(b.client, ourPlugin+"/creds/x")); err != nil {
			return err
		}
		*minted = ms(outcome.P50)
		return nil
	}
	if err := measure(&b.writeWithout, &b.mintWithout); err != nil {
		return err
	}
	_, err := run(b.logEntries, 32, func(i int) error {
		_, err := b.client.Logical().Write(fmt.Sprintf("%s/secrets/leased-%d/k%d", ourPlugin, i/scopeSize, i), map[string]any{"string_value": "v", "ttl": "2h"})
		return err
	})
	if err != nil {
		return err
	}
	if err := measure(&b.writeWith, &b.mintWith); err != nil {
		return err
	}
	b.say("  a secret: %.2f ms, with none open %.2f ms; a mint: %.2f ms, with none %.2f ms", b.writeWith, b.writeWithout, b.mintWith, b.mintWithout)
	return nil
}

// mounts measures the memory of further mounts, each of which has minted once.
func (b *bench) mounts() error {
	const count = 100
	for _, e := range b.engines[:2] {
		before, err := b.settledKB(e.plugin)
		if err != nil {
			b.say("  %s", err)
			return nil
		}
		for i := range count {
			path := fmt.Sprintf("further-%s-%d", e.plugin, i)
			if err := b.mount(path, e.plugin, e.setup(b.fake.URL, "x")); err != nil {
				return err
			}
			if err := mint(b.client, path+"/creds/x")(0); err != nil {
				return err
			}
		}
		after, err := b.settledKB(e.plugin)
		if err != nil {
			return err
		}
		b.mountKB[e.name] = float64(after-before) / count
		b.say("  %-16s  %.0f KB a mount", e.name, b.mountKB[e.name])
	}
	return nil
}

// settledKB returns the plugin's memory when it has stopped shrinking: the least of some seconds.
func (b *bench) settledKB(plugin string) (int, error) {
	least := 0
	for range 12 {
		kb, err := b.residentKB(plugin)
		if err != nil {
			return 0, err
		}
		least = cmp.Or(min(kb, cmp.Or(least, kb)), kb)
		time.Sleep(time.Second)
	}
	return least, nil
}
