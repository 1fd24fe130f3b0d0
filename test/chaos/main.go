// SPDX-License-Identifier: MPL-2.0

// Command chaos kills real Vault servers and the plugin's process at random moments under load, and then checks that nothing is left at
// Databricks that nobody answers for, and that everything that clients hold works.
//
// One phase has a single node, whose plugin or server is killed. The other has three, whose leader is killed or steps down. They run at
// the same time, each with a mount and a simulated workspace of its own, which lives in this process and so survives the kills.
//
//	go run ./test/chaos -kills 200 -failovers 20
//
// The seed reproduces the sequence of kinds and delays, though not what the processes make of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"vault-plugin-secrets-databricks/test/cluster"
)

// recordGrace is the variable of the plugin that says how long after the end of a lease the engine waits for Vault, before it undoes
// what the record of a lost lease is about. In production it is ten minutes.
const recordGrace = "vault-plugin-secrets-databricks.leaseRecordGrace"

type settings struct {
	kills, failovers, clients int
	seed                      uint64
	duration                  time.Duration // of the load of a phase at most
	patience                  time.Duration // for what is to be undone after the load
	grace                     time.Duration // of records, built into the plugin
	plugin                    string        // a file; "" is built
	race, keep                bool
}

func main() {
	s := settings{}
	flag.IntVar(&s.kills, "kills", int(env("KILLS", 200)), "kills of the plugin or the server of the single node; 0 leaves this phase out ($KILLS)")
	flag.IntVar(&s.failovers, "failovers", int(env("FAILOVERS", 20)), "kills and step-downs of the leader of three nodes; 0 leaves this phase out ($FAILOVERS)")
	flag.Uint64Var(&s.seed, "seed", uint64(env("SEED", time.Now().UnixNano()%1_000_000)), "of the sequence of kinds and delays ($SEED)")
	flag.DurationVar(&s.duration, "duration", time.Duration(env("DURATION", 3600))*time.Second, "end the load after this, even if kills are left ($DURATION, in seconds)")
	flag.DurationVar(&s.patience, "patience", 16*time.Minute, "how long what was lost may take to be undone")
	flag.DurationVar(&s.grace, "grace", 20*time.Second, "how long the engine leaves a lost lease to Vault, instead of ten minutes")
	flag.IntVar(&s.clients, "clients", 12, "concurrent clients of each phase")
	flag.StringVar(&s.plugin, "plugin", "", "test this plugin, which was built with its own grace, instead of building that of the working tree")
	flag.BoolVar(&s.race, "race", false, "build the plugin with the race detector")
	flag.BoolVar(&s.keep, "keep", false, "keep Vault's logs and storage after a failure")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintf(os.Stderr, "chaos: FAILED with seed %d: %v\n", s.seed, err)
		os.Exit(1)
	}
}

func env(name string, otherwise int64) int64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		fmt.Fprintf(os.Stderr, "chaos: %s is %q, which is not a whole number\n", name, text)
		os.Exit(2)
	}
	return n
}

func run(ctx context.Context, s settings) error {
	began := time.Now()
	vault, err := cluster.FindVault(ctx)
	if err != nil {
		return err
	}
	plugin := s.plugin
	if plugin == "" {
		dir, err := os.MkdirTemp("", "chaos-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		plugin, err = cluster.BuildPlugin(ctx, dir, cluster.Build{LDFlags: "-X " + recordGrace + "=" + s.grace.String(), Race: s.race})
		if err != nil {
			return err
		}
	}
	var phases []*phase
	add := func(name string, nodes, number, count int) {
		if count == 0 {
			return
		}
		out := newProgress(name, began)
		phases = append(phases, &phase{
			name: name, settings: s, seed: s.seed + uint64(number), count: count, progress: out,
			options: cluster.Options{Vault: vault, Plugin: plugin, Nodes: nodes, Out: out},
		})
	}
	add("one node", 1, 0, s.kills)
	add("three nodes", 3, 1, s.failovers)
	fmt.Printf("chaos: seed %d, %d kills, %d failovers\n", s.seed, s.kills, s.failovers)

	errs := make([]error, len(phases))
	var wg sync.WaitGroup
	for i, p := range phases {
		wg.Go(func() {
			if err := p.run(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", p.name, err)
			}
		})
	}
	wg.Wait()
	parts := []string{fmt.Sprintf("seed %d", s.seed)}
	for _, p := range phases {
		parts = append(parts, p.name+": "+p.figures.String())
	}
	fmt.Printf("chaos: %s; %s in all\n", strings.Join(parts, "; "), time.Since(began).Round(time.Second))
	return errors.Join(errs...)
}

// progress writes lines that name the phase and the time.
type progress struct {
	name  string
	began time.Time
}

func newProgress(name string, began time.Time) *progress { return &progress{name, began} }

func (p *progress) say(format string, args ...any) {
	fmt.Printf("%5.0f s  %s: %s\n", time.Since(p.began).Seconds(), p.name, fmt.Sprintf(format, args...))
}

func (p *progress) Write(text []byte) (int, error) {
	p.say("%s", strings.TrimSpace(string(text)))
	return len(text), nil
}
