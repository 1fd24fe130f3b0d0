// SPDX-License-Identifier: MPL-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// stormSettings are what may be set.
type stormSettings struct {
	leases  int           // LEASES: how many are minted and then revoked
	clients int           // CLIENTS: how many of them are minted at a time
	seed    int           // SEED: of the choice of answers that fail
	limit   time.Duration // LIMIT: how long all of the revocation may take
}

func stormSettingsOf(env *environment) stormSettings {
	return stormSettings{
		leases:  env.count("LEASES", 10_000),
		clients: env.count("CLIENTS", 64),
		seed:    env.count("SEED", 1),
		limit:   env.duration("LIMIT", 2*time.Minute),
	}
}

// throttle lets 5 % of the workspace's answers be 429 from now on, and 1 % of the others 503.
func throttle(w *simulator.Workspace) {
	w.Inject(simulator.Fault{Share: 0.05, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"1"}}})
	w.Inject(simulator.Fault{Share: 0.01, Status: http.StatusServiceUnavailable})
}

const stormRole = "storm"

// stormRun is one run and what it measured.
type stormRun struct {
	*rig
	stormSettings
	tally *tally

	mintTime, longestMint, revokeTime time.Duration
	tokensLeft, leasesLeft            int
	irrevocable                       int
	calls                             map[string]opCounts
}

// opCounts is what databricks/status says of one operation.
type opCounts struct {
	Calls     int     `json:"calls"`
	Errors    int     `json:"errors"`
	Retries   int     `json:"retries"`
	Throttled int     `json:"throttled"`
	MaxMS     float64 `json:"max_ms"`
}

// storm mints the leases while Databricks is well, and revokes them all by prefix while it throttles. Vault's expiration manager
// does the revocation in the background, as it does after "vault lease revoke -prefix" and for leases that expire.
func storm(ctx context.Context, settings stormSettings) (err error) {
	run := &stormRun{stormSettings: settings, tally: newTally(settings.leases)}
	run.rig, err = newRig(ctx, simulator.WithSeed(uint64(settings.seed)), simulator.WithObserver(run.tally.observe))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, run.close(err != nil)) }()

	if err := run.mintAll(ctx); err != nil {
		return err
	}
	throttle(run.workspace)
	if err := run.revokeAll(ctx); err != nil {
		return err
	}
	if err := run.count(ctx); err != nil {
		return err
	}
	fmt.Println(run.figures())
	return run.check()
}

func (run *stormRun) mintAll(ctx context.Context) error {
	role := map[string]any{"credential_type": "pat", "ttl": "1h", "max_ttl": "2h"}
	if _, err := run.write(ctx, mountPath+"/roles/"+stormRole, role); err != nil {
		return err
	}
	var next, longest atomic.Int64
	began := time.Now()
	err := each(ctx, run.clients, func(ctx context.Context, _ int) error {
		for next.Add(1) <= int64(run.leases) {
			asked := time.Now()
			if _, err := run.mint(ctx, stormRole); err != nil {
				return err
			}
			took := int64(time.Since(asked))
			for seen := longest.Load(); took > seen && !longest.CompareAndSwap(seen, took); seen = longest.Load() {
			}
		}
		return nil
	})
	run.mintTime, run.longestMint = time.Since(began), time.Duration(longest.Load())
	if err != nil {
		return err
	}
	leases, err := run.leasesInVault(ctx)
	if err == nil && (leases != run.leases || run.minted() != run.leases) {
		err = fmt.Errorf("minted %d leases, but Vault has %d and the workspace has %d tokens", run.leases, leases, run.minted())
	}
	return err
}

// revokeAll returns when Vault has no lease of the role, or when the limit is over.
func (run *stormRun) revokeAll(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, run.limit)
	defer cancel()
	began := time.Now()
	defer func() { run.revokeTime = time.Since(began) }()
	if _, err := run.write(limited, "sys/leases/revoke-prefix/"+mountPath+"/creds", map[string]any{"sync": false}); err != nil {
		return err
	}
	progress := time.NewTicker(15 * time.Second)
	defer progress.Stop()
	for waiting := true; waiting; {
		select {
		case <-run.tally.reached:
			waiting = false
		case <-limited.Done():
			return context.Cause(ctx)
		case <-progress.C:
			fmt.Fprintf(os.Stderr, "storm: %d of %d tokens are deleted after %.0f s\n",
				run.tally.count(deletePath, http.StatusOK), run.leases, time.Since(began).Seconds())
		}
	}
	// Vault deletes a lease after its token, and tells nobody.
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		if left, err := run.leasesInVault(ctx); err != nil || left == 0 {
			return err
		}
		select {
		case <-limited.Done():
			return context.Cause(ctx)
		case <-poll.C:
		}
	}
}

// leasesInVault returns how many leases of the role Vault has, irrevocable ones included.
func (run *stormRun) leasesInVault(ctx context.Context) (int, error) {
	secret, err := run.vault.Logical().ListWithContext(ctx, "sys/leases/lookup/"+mountPath+"/creds/"+stormRole)
	if err != nil || secret == nil {
		return 0, err
	}
	keys, _ := secret.Data["keys"].([]any)
	return len(keys), nil
}

// count reads what is left, and the engine's own counts of its calls.
func (run *stormRun) count(ctx context.Context) (err error) {
	run.tokensLeft = run.minted()
	if run.leasesLeft, err = run.leasesInVault(ctx); err != nil {
		return err
	}
	secret, err := run.vault.Logical().ReadWithDataWithContext(ctx, "sys/leases/count", map[string][]string{"type": {"irrevocable"}})
	if err != nil {
		return fmt.Errorf("counting irrevocable leases: %w", err)
	}
	number, _ := secret.Data["lease_count"].(json.Number)
	irrevocable, err := number.Int64()
	if err != nil {
		return fmt.Errorf("counting irrevocable leases: %w", err)
	}
	run.irrevocable = int(irrevocable)
	status, err := run.vault.Logical().ReadWithContext(ctx, mountPath+"/status")
	if err != nil {
		return err
	}
	raw, err := json.Marshal(status.Data["calls"])
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, &run.calls)
}

// figures is the line of results. Calls are those of each lease that was minted or revoked, failed ones included, as counted by the
// workspace, and in parentheses by the engine.
func (run *stormRun) figures() string {
	n := float64(run.leases)
	perLease := func(path string, op opCounts) string {
		done := float64(max(run.tally.count(path, http.StatusOK), 1))
		return fmt.Sprintf("%.3f (%.3f) calls each", float64(run.tally.count(path, 0))/done, float64(op.Calls+op.Retries)/done)
	}
	create, remove := run.calls["token/create"], run.calls["token/delete"]
	revoked := run.tally.count(deletePath, http.StatusOK)
	return fmt.Sprintf("storm: leases %d, clients %d, seed %d; mint %.1f s, %.0f/s, %s, longest %.0f ms; "+
		"revoke %.1f s, %.0f/s, %s, longest %.1f s, tried again by Vault %d; answers 429: %d, 503: %d; left: leases %d, tokens %d, irrevocable %d",
		run.leases, run.clients, run.seed,
		run.mintTime.Seconds(), n/run.mintTime.Seconds(), perLease(createPath, create), run.longestMint.Seconds()*1000,
		run.revokeTime.Seconds(), float64(revoked)/run.revokeTime.Seconds(), perLease(deletePath, remove), remove.MaxMS/1000, remove.Errors,
		run.tally.count("", http.StatusTooManyRequests), run.tally.count("", http.StatusServiceUnavailable),
		run.leasesLeft, run.tokensLeft, run.irrevocable)
}

// check returns an error that says which limits are broken.
func (run *stormRun) check() error {
	var broken []error
	if run.tokensLeft > 0 {
		broken = append(broken, fmt.Errorf("%d tokens live at Databricks %v after the revocation began", run.tokensLeft, run.limit))
	}
	if run.leasesLeft > 0 {
		broken = append(broken, fmt.Errorf("%d leases are in Vault %v after the revocation began", run.leasesLeft, run.limit))
	}
	if run.irrevocable > 0 {
		broken = append(broken, fmt.Errorf("%d leases are irrevocable", run.irrevocable))
	}
	return errors.Join(broken...)
}
