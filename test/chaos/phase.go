// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/vault/api"

	"vault-plugin-secrets-databricks/internal/simulator"
	"vault-plugin-secrets-databricks/test/cluster"
)

const mount = "databricks"

// errEmpty is an answer that says nothing of an effect: a standby of Vault gives it at times, for a leader that ended with the request, and
// Vault's client takes a second redirect in a row for a success.
var errEmpty = errors.New("a success with an empty body")

// phase is one cluster with one mount and one workspace, from the first request to the last check.
type phase struct {
	*progress
	name     string
	settings settings
	seed     uint64
	count    int // of kills, or of failovers
	options  cluster.Options

	cluster   *cluster.Cluster
	workspace *simulator.Workspace
	mountID   string
	world     world
	ledger    ledger
	operator  *operator
	rotations rotations
	figures   figures
	failures  failures
	inFlight  atomic.Int64
}

// figures are what the last line tells.
type figures struct {
	pluginKills, serverKills, stepDowns atomic.Int64
	ok, failed, minted                  atomic.Int64
	rotated, liveChecked, lostLeases    int
	orphans                             orphans
}

func (f *figures) String() string {
	return fmt.Sprintf("%d plugin kills, %d server kills, %d step-downs, %d requests ok, %d failed, %d minted, %d rotations, %d live leases checked, %d leases without an answer, orphans %s",
		f.pluginKills.Load(), f.serverKills.Load(), f.stepDowns.Load(), f.ok.Load(), f.failed.Load(), f.minted.Load(), f.rotated, f.liveChecked, f.lostLeases, f.orphans.String())
}

// random returns a source for one purpose, so that what the others draw doesn't change its sequence.
func (p *phase) random(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(p.seed, purpose)) }

func (p *phase) run(ctx context.Context) (err error) {
	if p.cluster, err = cluster.Start(ctx, p.options); err != nil {
		return err
	}
	defer func() {
		if err == nil || !p.settings.keep {
			err = errors.Join(err, p.cluster.Close())
			return
		}
		dir, closeErr := p.cluster.CloseKeepingLogs()
		err = errors.Join(fmt.Errorf("%w\nVault's logs are in %s", err, dir), closeErr)
	}()
	p.operator = newOperator()
	p.workspace = simulator.New(simulator.WithoutCallLog(), simulator.WithTokenQuota(20_000), simulator.WithObserver(p.observe))
	defer p.workspace.Close()
	if err := p.setUp(ctx); err != nil {
		return fmt.Errorf("set-up: %w", err)
	}
	p.say("the mount is %s, load begins", p.mountID)
	if err := p.underLoad(ctx); err != nil {
		return err
	}
	p.workspace.ClearFaults()
	p.say("%d requests ok, %d failed, mostly with: %s", p.figures.ok.Load(), p.figures.failed.Load(), p.failures.most(4))
	p.say("waiting for what is to be undone")
	if err := p.settle(ctx); err != nil {
		return err
	}
	return p.finish(ctx)
}

// underLoad runs the load, the faults and the operator's own work until all kills are done.
func (p *phase) underLoad(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.settings.duration)
	defer cancel()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range p.settings.clients {
		wg.Go(func() { p.client(stop, p.random(100+uint64(i))) })
	}
	wg.Go(func() { p.weather(stop, p.random(1)) })
	wg.Go(func() { p.operator.work(stop, p.workspace, p.random(2)) })
	wg.Go(func() { p.sampleRotations(stop) })
	wg.Go(func() {
		for random := p.random(5); pause(stop, 5*time.Second); {
			p.keep(random)
		}
	})
	err := p.kills(ctx, p.random(3))
	if errors.Is(err, context.DeadlineExceeded) {
		p.say("the time for kills is over: %s", p.figures.String())
		err = p.restoreNodes()
	}
	close(stop)
	wg.Wait()
	return err
}

// weather makes calls to Databricks take from a few to some hundred milliseconds, and some of them fail, with and without effect. It
// changes every now and then.
func (p *phase) weather(stop <-chan struct{}, random *rand.Rand) {
	for {
		p.workspace.ClearFaults()
		inject := func(every int, f simulator.Fault) {
			f.Every, f.Offset = every, random.IntN(every)
			p.workspace.Inject(f)
		}
		inject(23+random.IntN(30), simulator.Fault{AfterEffect: true, Reset: true, Delay: time.Duration(random.IntN(50)) * time.Millisecond})
		inject(40+random.IntN(40), simulator.Fault{AfterEffect: true, Close: true})
		inject(40+random.IntN(40), simulator.Fault{Reset: true})
		inject(60+random.IntN(40), simulator.Fault{Status: 503})
		inject(60+random.IntN(40), simulator.Fault{Status: 429})
		inject(9+random.IntN(9), simulator.Fault{AfterEffect: random.IntN(2) == 0, Delay: time.Duration(100+random.IntN(300)) * time.Millisecond})
		inject(2, simulator.Fault{AfterEffect: true, Delay: time.Duration(1+random.IntN(60)) * time.Millisecond})
		inject(1, simulator.Fault{Delay: time.Duration(1+random.IntN(30)) * time.Millisecond})
		if !pause(stop, 1500*time.Millisecond) {
			return
		}
	}
}

// pause waits, and returns false if it is stopped.
func pause(stop <-chan struct{}, d time.Duration) bool {
	select {
	case <-stop:
		return false
	case <-time.After(d):
		return true
	}
}

// write writes to a path of the mount, as request does.
func (p *phase) write(random *rand.Rand, path string, data map[string]any) (*api.Secret, error) {
	return p.request(random, mount+"/"+path, data)
}

// request writes to a path of a node that runs, and counts how it went. An error leaves open whether the request had an effect.
func (p *phase) request(random *rand.Rand, path string, data map[string]any) (*api.Secret, error) {
	nodes := p.cluster.Nodes
	node := nodes[random.IntN(len(nodes))]
	for range nodes {
		if node.Running() {
			break
		}
		node = nodes[random.IntN(len(nodes))]
	}
	p.inFlight.Add(1)
	secret, err := send(node.Client(), path, data)
	p.inFlight.Add(-1)
	if err != nil {
		p.figures.failed.Add(1)
		p.failures.note(err)
		time.Sleep(50 * time.Millisecond) // While the server is down, each attempt fails at once.
	} else {
		p.figures.ok.Add(1)
	}
	return secret, err
}

// send writes data that the engine always answers with some. Not by WriteRaw, which sends no body to where a standby redirects it.
func send(client *api.Client, path string, data map[string]any) (*api.Secret, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	secret, err := client.Logical().WriteWithContext(ctx, path, data)
	if err == nil && secret == nil {
		err = errEmpty
	}
	return secret, err
}

// leader is a client of the active node, for what is asked when nothing is killed.
func (p *phase) leader(ctx context.Context) (*api.Client, error) {
	node, err := p.cluster.AwaitLeader(ctx)
	if err != nil {
		return nil, err
	}
	return node.Client(), nil
}

func (p *phase) read(ctx context.Context, path string) (map[string]any, error) {
	client, err := p.leader(ctx)
	if err != nil {
		return nil, err
	}
	secret, err := client.Logical().ReadWithContext(ctx, mount+"/"+path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if secret == nil {
		return nil, fmt.Errorf("there is no %s", path)
	}
	return secret.Data, nil
}

func text(data map[string]any, field string) string {
	value, _ := data[field].(string)
	return value
}

// texts are the strings of a list.
func texts(data map[string]any, field string) []string {
	list, _ := data[field].([]any)
	var all []string
	for _, item := range list {
		if s, ok := item.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

// firstLine keeps messages short: Vault's errors have several lines.
func firstLine(err error) string {
	return strings.Join(strings.Fields(err.Error()), " ")
}

// failures counts the errors that clients got, by how they begin.
type failures struct {
	mu     sync.Mutex
	counts map[string]int
}

func (f *failures) note(err error) {
	line := firstLine(err)
	if _, message, found := strings.Cut(line, "Errors: "); found {
		line = message
	} else if i := strings.LastIndex(line, ": "); strings.Contains(line, "http://") && i >= 0 {
		line = line[i+2:] // what became of the connection, without the addresses
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.counts == nil {
		f.counts = map[string]int{}
	}
	f.counts[line[:min(len(line), 70)]]++
}

func (f *failures) most(n int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	lines := slices.SortedFunc(maps.Keys(f.counts), func(a, b string) int { return f.counts[b] - f.counts[a] })
	var parts []string
	for _, line := range lines[:min(n, len(lines))] {
		parts = append(parts, fmt.Sprintf("%d x %s", f.counts[line], line))
	}
	return strings.Join(parts, " | ")
}
