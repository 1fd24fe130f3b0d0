// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// soakSettings are what may be set.
type soakSettings struct {
	duration time.Duration // DURATION: how long it runs, 0 for as long as the mints take
	mints    int           // MINTS: how many mints it makes, 0 for as many as the time allows
	clients  int           // CLIENTS
	seed     int           // SEED: of the order of the kinds of work
	every    time.Duration // SAMPLE: between two looks at the memory
	growth   int           // GROWTH: how many bytes of growth are accepted
	out      string        // OUT: the directory for the table and the plot
}

func soakSettingsOf(env *environment) soakSettings {
	settings := soakSettings{
		duration: env.duration("DURATION", 0),
		mints:    env.count("MINTS", 0),
		clients:  env.count("CLIENTS", 32),
		seed:     env.count("SEED", 1),
		every:    env.duration("SAMPLE", 2*time.Second),
		growth:   env.count("GROWTH", maxGrowth),
		out:      os.Getenv("OUT"),
	}
	if settings.duration == 0 && settings.mints == 0 {
		settings.duration = 10 * time.Minute
	}
	if settings.out == "" {
		settings.out = filepath.Join("test", "load", "out")
	}
	return settings
}

const (
	// warmUp is the share of the mints after which memory is expected to be flat.
	warmUp = 0.2

	// maxGrowth is how much the fitted line may rise after the warm-up. Between two garbage collections the memory moves by about
	// 1 MB, so this is growth that can be told from that. In 43,000 mints it is less than 120 bytes for each, the size of what a
	// record of a lease with its id would need, and in a million it is 5: no object on the heap is as small.
	maxGrowth = 4_000_000

	// trimEvery is after how many mints the workspace forgets what is dead.
	trimEvery = 20_000

	soakScope = "soak"

	// soakPrincipals is how many service principals OAuth tokens are made for. One allows only a few mints at a time.
	soakPrincipals = 4
)

// soakRun is one run and what it measured.
type soakRun struct {
	*rig
	soakSettings
	plugin int // id of its process

	working sync.RWMutex // held for reading during a piece of work, and for writing while the workspace is trimmed
	made    atomic.Int64 // mints
	began   time.Time
	samples []sample
}

// soak mints and revokes until the time is over or the mints are made, and watches the memory of the plugin's process. That of
// Vault, whose storage is in memory too, is not measured.
func soak(ctx context.Context, settings soakSettings) (err error) {
	run := &soakRun{soakSettings: settings}
	if run.rig, err = newRig(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.close(err != nil)) }()
	if err := run.prepare(ctx); err != nil {
		return err
	}
	workErr := run.work(ctx)
	if len(run.samples) == 0 {
		return workErr
	}
	// The figures of a run that failed or was interrupted are still of use.
	fitted := fit(run.samples, warmUp)
	fmt.Println(run.figures(fitted))
	return errors.Join(workErr, run.save(fitted), run.check(fitted))
}

// prepare makes the roles and the scope, and finds the plugin's process.
func (run *soakRun) prepare(ctx context.Context) error {
	roles := map[string]map[string]any{"pat": {"credential_type": "pat", "ttl": "1h", "max_ttl": "2h"}}
	for i := range soakPrincipals {
		principal := run.workspace.AddServicePrincipal(fmt.Sprint("soak ", i), false)
		roles[oauthRole(i)] = map[string]any{"credential_type": "oauth_token", "application_id": principal.ApplicationID, "scopes": "sql"}
	}
	for name, role := range roles {
		if _, err := run.write(ctx, mountPath+"/roles/"+name, role); err != nil {
			return err
		}
	}
	run.workspace.AddScope(soakScope, run.admin)
	return run.findPlugin()
}

func oauthRole(i int) string { return fmt.Sprint("oauth", i) }

// findPlugin requires that one process serves the plugin, the same at each call.
func (run *soakRun) findPlugin() error {
	pids, err := run.cluster.Nodes[0].PluginPids()
	if err != nil {
		return err
	}
	if len(pids) != 1 || run.plugin != 0 && run.plugin != pids[0] {
		return fmt.Errorf("the plugin's processes are %v, and one was expected (before: %d)", pids, run.plugin)
	}
	run.plugin = pids[0]
	return nil
}

// work runs the clients, and takes samples meanwhile.
func (run *soakRun) work(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	run.began = time.Now()
	finished, sampled := make(chan struct{}), make(chan error, 1)
	go func() {
		err := run.watch(finished)
		if err != nil {
			stop(err)
		}
		sampled <- err
	}()
	err := each(ctx, run.clients, run.client)
	close(finished)
	return errors.Join(err, <-sampled, run.findPlugin())
}

// watch takes a sample at once, then regularly, and at the end.
func (run *soakRun) watch(finished <-chan struct{}) error {
	ticker := time.NewTicker(run.every)
	defer ticker.Stop()
	for more := true; ; {
		rss, anon, err := memoryOf(run.plugin)
		if err != nil {
			return err
		}
		run.samples = append(run.samples, sample{time.Since(run.began), run.made.Load(), rss, anon})
		if !more {
			return nil
		}
		select {
		case <-ticker.C:
		case <-finished:
			more = false
		}
	}
}

// ended reports whether the time is over or the mints are made.
func (run *soakRun) ended() bool {
	return run.duration > 0 && time.Since(run.began) >= run.duration || run.mints > 0 && run.made.Load() >= int64(run.mints)
}

// client does one piece of work after the other.
func (run *soakRun) client(ctx context.Context, number int) error {
	random := rand.New(rand.NewPCG(uint64(run.seed), uint64(number)))
	for !run.ended() && ctx.Err() == nil {
		run.working.RLock()
		err := run.piece(ctx, random, number)
		run.working.RUnlock()
		if err != nil {
			return err
		}
		if run.made.Add(1)%trimEvery == 0 {
			run.trim()
		}
	}
	return nil
}

// piece mints something and revokes it: mostly personal access tokens, some of which are renewed, and now and then an OAuth token
// or a leased secret.
func (run *soakRun) piece(ctx context.Context, random *rand.Rand, client int) (err error) {
	var lease string
	switch kind := random.IntN(100); {
	case kind < 80:
		lease, err = run.mint(ctx, "pat")
	case kind < 88:
		if lease, err = run.mint(ctx, "pat"); err == nil {
			_, err = run.write(ctx, "sys/leases/renew", map[string]any{"lease_id": lease})
		}
	case kind < 96:
		lease, err = run.leaseSecret(ctx, client)
	default:
		lease, err = run.mint(ctx, oauthRole(random.IntN(soakPrincipals)))
	}
	if err != nil {
		return err
	}
	return run.revoke(ctx, lease)
}

// leaseSecret writes a secret with a lease. Each client has a key of its own.
func (run *soakRun) leaseSecret(ctx context.Context, client int) (lease string, err error) {
	path := fmt.Sprintf("%s/secrets/%s/client-%d", mountPath, soakScope, client)
	secret, err := run.write(ctx, path, map[string]any{"string_value": "of the soak", "ttl": "1h"})
	if err != nil {
		return "", err
	}
	if secret == nil || secret.LeaseID == "" {
		return "", fmt.Errorf("writing %s: the answer has no lease", path)
	}
	return secret.LeaseID, nil
}

// trim makes the workspace forget its calls and what is dead there, which it would keep for ever. OAuth access tokens are lost
// with that; they aren't used here. No client works meanwhile.
func (run *soakRun) trim() {
	run.working.Lock()
	defer run.working.Unlock()
	run.workspace.Restore(run.workspace.Snapshot())
	run.workspace.ResetCalls()
}

// figures is the line of results.
func (run *soakRun) figures(fitted line) string {
	early, last := at(run.samples, 0.1), run.samples[len(run.samples)-1]
	return fmt.Sprintf("soak: mints %d in %.0f s, %.0f/s, clients %d, seed %d; memory not backed by a file: %.1f MB at 10 %%, %.1f MB at 100 %% "+
		"(resident %.1f and %.1f MB); over the last %.0f %%: %+.2f bytes for each mint, %+.1f MB (limit %.1f MB)",
		last.mints, last.elapsed.Seconds(), float64(last.mints)/last.elapsed.Seconds(), run.clients, run.seed,
		megabytes(early.anon), megabytes(last.anon), megabytes(early.rss), megabytes(last.rss),
		(1-warmUp)*100, fitted.slope, fitted.growth()/1e6, float64(run.growth)/1e6)
}

func megabytes(bytes int64) float64 { return float64(bytes) / 1e6 }

// save writes the table and the plot.
func (run *soakRun) save(fitted line) error {
	if err := os.MkdirAll(run.out, 0o755); err != nil {
		return err
	}
	title := fmt.Sprintf("Memory of the plugin's process over %s mints", thousands(fitted.to))
	return errors.Join(
		writeFile(filepath.Join(run.out, "soak.csv"), func(w io.Writer) error { return writeCSV(w, run.samples) }),
		writeFile(filepath.Join(run.out, "soak.svg"), func(w io.Writer) error { return writeChart(w, title, run.samples, fitted) }),
	)
}

func writeFile(path string, write func(io.Writer) error) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(file), file.Close())
}

// check returns an error if memory grows with the mints.
func (run *soakRun) check(fitted line) error {
	if growth := fitted.growth(); growth > float64(run.growth) {
		return fmt.Errorf("after the warm-up the memory of the plugin grew by %.1f MB in %d mints; %.1f MB is accepted",
			growth/1e6, fitted.to-fitted.from, float64(run.growth)/1e6)
	}
	return nil
}
