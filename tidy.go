// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/client"
)

const tidyStorageKey = "tidy/status"

const (
	// tidyPerTick is how many service principals an automatic run removes at most. The next periodic call continues.
	tidyPerTick = 50

	// The first automatic run is due tidyRetry after the mount was connected, later ones tidyPeriod after a successful run and
	// tidyRetry after a failed one.
	tidyRetry  = time.Hour
	tidyPeriod = 24 * time.Hour

	// tidyMaxIDs bounds each list of ids in the status.
	tidyMaxIDs = 1000

	// tidySaveBudget limits storing the end of a run, and tidyStopPatience waiting for a run to stop.
	tidySaveBudget   = 5 * time.Second
	tidyStopPatience = 10 * time.Second
)

const (
	tidyIdle      = "idle"
	tidyRunning   = "running"
	tidyFinished  = "finished"
	tidyFailed    = "failed"
	tidyCancelled = "cancelled"
)

// The reasons for stopping a run.
var (
	errTidyCancelled   = errors.New("cancelled")
	errTidyInterrupted = errors.New("interrupted: the plugin was restarted or another node took over; run it again")
)

// tidyStatus is the stored status: the latest run, and when the next automatic one is due.
type tidyStatus struct {
	State             string    `json:"state"`
	Started           time.Time `json:"started,omitzero"`
	Finished          time.Time `json:"finished,omitzero"`
	DryRun            bool      `json:"dry_run"`
	Automatic         bool      `json:"automatic"`
	Found             int       `json:"found"`
	Deleted           int       `json:"deleted"`
	Failed            int       `json:"failed"`
	LastError         string    `json:"last_error"`
	Denied            bool      `json:"denied,omitempty"` // LastError is that the engine's identity may not look for service principals
	Tokens            []string  `json:"tokens"`
	ServicePrincipals []string  `json:"service_principals"`
	Truncated         bool      `json:"truncated"`
	NextAutomatic     time.Time `json:"next_automatic,omitzero"` // zero until a periodic call has found a config
}

// tidying is the state of tidy on this node. mu guards status, unsaved, run and closed.
type tidying struct {
	mu      sync.Mutex
	status  *tidyStatus // nil until read from storage
	unsaved bool        // the status differs from the stored one, and no run will store it
	run     *tidyRun    // the latest one of this process, nil for none
	closed  bool        // the backend is being unloaded

	failures sync.Map // ids of what could not be removed the last time

	// saving is held while the status is stored, so that an older status never replaces a newer one.
	saving sync.Mutex
}

// tidyRun is one run. It ends when it is done, or when it is cancelled.
type tidyRun struct {
	conn              *connection
	storage           logical.Storage
	dryRun, automatic bool
	mounts            []string // ids of the mounts whose garbage it removes

	more   bool // there is more than an automatic run may remove
	over   bool // the status says how it ended; guarded by tidying.mu
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when that is also stored and reported
}

// inFlight reports whether there is a run. The caller holds the mutex.
func (t *tidying) inFlight() bool { return t.run != nil && !t.run.over }

// stop cancels the run and waits for its end, for tidyStopPatience at most.
func (r *tidyRun) stop(why error) {
	r.cancel(why)
	timer := time.NewTimer(tidyStopPatience)
	defer timer.Stop()
	select {
	case <-r.done:
	case <-timer.C:
	}
}

// tidyStatus returns how the latest run went, and whether one is in flight on this node.
func (b *backend) tidyStatus(ctx context.Context, s logical.Storage) (status tidyStatus, inFlight bool, err error) {
	b.tidy.mu.Lock()
	defer b.tidy.mu.Unlock()
	if err := b.loadTidy(ctx, s); err != nil {
		return tidyStatus{}, false, err
	}
	return *b.tidy.status, b.tidy.inFlight(), nil
}

// loadTidy reads the stored status unless that was done already. A stored run that is still running was interrupted, and
// becomes failed. The caller holds tidy.mu.
func (b *backend) loadTidy(ctx context.Context, s logical.Storage) error {
	if b.tidy.status != nil {
		return nil
	}
	entry, err := s.Get(ctx, tidyStorageKey)
	if err != nil {
		return err
	}
	status := &tidyStatus{State: tidyIdle}
	if entry != nil {
		if err := entry.DecodeJSON(status); err != nil {
			b.Logger().Warn("the stored status of tidy can't be read, so it begins anew", "error", err)
			status = &tidyStatus{State: tidyIdle}
		}
	}
	if status.State == tidyRunning {
		status.State, status.Finished, status.LastError = tidyFailed, b.now().UTC(), errTidyInterrupted.Error()
		b.tidy.unsaved = true
	}
	b.tidy.status = status
	return nil
}

// forgetTidy makes the next use read the status again, since another node has stored one. It does nothing during a run.
func (b *backend) forgetTidy() {
	b.tidy.mu.Lock()
	defer b.tidy.mu.Unlock()
	if !b.tidy.inFlight() {
		b.tidy.status, b.tidy.unsaved = nil, false
	}
}

// changeTidy changes the status of the run in flight, which is stored later.
func (b *backend) changeTidy(change func(*tidyStatus)) {
	b.tidy.mu.Lock()
	defer b.tidy.mu.Unlock()
	change(b.tidy.status)
}

// saveTidy stores the current status.
func (b *backend) saveTidy(ctx context.Context, s logical.Storage) error {
	t := &b.tidy
	t.saving.Lock()
	defer t.saving.Unlock()
	t.mu.Lock()
	if t.status == nil {
		t.mu.Unlock()
		return nil
	}
	entry, err := logical.StorageEntryJSON(tidyStorageKey, t.status)
	t.unsaved = false
	t.mu.Unlock()
	if err == nil {
		err = s.Put(ctx, entry)
	}
	if err != nil {
		t.mu.Lock()
		t.unsaved = true
		t.mu.Unlock()
	}
	return err
}

// beginTidy begins a run in the background. It returns false, and does nothing, when one is in flight.
func (b *backend) beginTidy(ctx context.Context, run *tidyRun) (bool, error) {
	if err := b.alone(); err != nil {
		return false, err
	}
	t := &b.tidy
	running, cancel := context.WithCancelCause(context.Background())
	run.cancel, run.done = cancel, make(chan struct{})
	t.mu.Lock()
	if err := b.loadTidy(ctx, run.storage); err != nil || t.inFlight() || t.closed {
		closed := t.closed
		t.mu.Unlock()
		cancel(nil)
		if err == nil && closed {
			err = errTidyInterrupted
		}
		return false, err
	}
	// The status is stored as running before the run starts, so that after a crash the next process reports it as interrupted.
	before := t.status
	now := b.now().UTC()
	t.run, t.status = run, &tidyStatus{State: tidyRunning, Started: now, DryRun: run.dryRun, Automatic: run.automatic, NextAutomatic: before.NextAutomatic}
	if run.automatic {
		t.status.NextAutomatic = now.Add(tidyRetry) // unless it succeeds
	}
	t.mu.Unlock()

	if err := b.saveTidy(ctx, run.storage); err != nil {
		t.mu.Lock()
		run.over, t.status, t.unsaved = true, before, true // it may have been stored despite the error
		t.mu.Unlock()
		cancel(nil)
		close(run.done)
		return false, fmt.Errorf("the run was not started, because its status could not be stored: %w", err)
	}
	go func() {
		// A panic in this goroutine would crash every mount of the process.
		defer close(run.done)
		defer cancel(nil)
		err := b.safely("tidy", func() error { return b.runTidy(running, run) })
		_ = b.safely("end of tidy", func() error { b.endTidy(running, run, err); return nil })
	}()
	return true, nil
}

// cancelTidy stops the run in flight, and returns false when there is none.
func (b *backend) cancelTidy() bool {
	b.tidy.mu.Lock()
	run, inFlight := b.tidy.run, b.tidy.inFlight()
	b.tidy.mu.Unlock()
	if !inFlight {
		return false
	}
	run.stop(errTidyCancelled)
	return true
}

// stopTidy stops the run in flight and allows no other.
func (b *backend) stopTidy() {
	b.tidy.mu.Lock()
	b.tidy.closed = true
	run := b.tidy.run
	b.tidy.mu.Unlock()
	if run != nil {
		run.stop(errTidyInterrupted)
	}
}

// tidyPeriodic starts an automatic run if one is due. It is called about once a minute, and reads no storage unless there is
// something to do.
func (b *backend) tidyPeriodic(ctx context.Context, req *logical.Request) error {
	if !b.WriteSafeReplicationState() || b.System().Tainted() || b.mountID == unnamedMount || b.splitBrain.Load() != nil {
		return nil
	}
	status, inFlight, err := b.tidyStatus(ctx, req.Storage)
	if err != nil || inFlight {
		return err
	}
	b.tidy.mu.Lock()
	unsaved := b.tidy.unsaved
	b.tidy.mu.Unlock()
	if unsaved {
		if err := b.saveTidy(ctx, req.Storage); err != nil {
			return err
		}
	}
	if latest := b.now().UTC().Add(tidyPeriod + tidyRetry); status.NextAutomatic.After(latest) {
		// It was set while the clock was ahead.
		b.tidy.mu.Lock()
		if b.tidy.status != nil {
			b.tidy.status.NextAutomatic = latest
		}
		b.tidy.mu.Unlock()
		return b.saveTidy(ctx, req.Storage)
	}
	if b.now().Before(status.NextAutomatic) {
		return nil
	}
	conn, err := b.connection(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return nil
	}
	if err != nil {
		return err
	}
	if status.NextAutomatic.IsZero() {
		b.tidy.mu.Lock()
		if b.tidy.status != nil {
			b.tidy.status.NextAutomatic = b.now().UTC().Add(tidyRetry)
		}
		b.tidy.mu.Unlock()
		return b.saveTidy(ctx, req.Storage)
	}
	_, err = b.beginTidy(ctx, &tidyRun{conn: conn, storage: req.Storage, automatic: true, mounts: []string{b.mountID}})
	return err
}

// endTidy records how the run ended. It is also logged and sent as an event, even if it can't be stored.
func (b *backend) endTidy(ctx context.Context, run *tidyRun, err error) {
	t := &b.tidy
	t.mu.Lock()
	s := t.status
	s.Finished = b.now().UTC()
	switch {
	case err == nil:
		s.State = tidyFinished
	case errors.Is(context.Cause(ctx), errTidyCancelled):
		s.State = tidyCancelled
	case ctx.Err() != nil:
		s.State, s.LastError = tidyFailed, context.Cause(ctx).Error()
	default:
		s.State, s.LastError = tidyFailed, err.Error()
	}
	s.Denied = client.IsKind(err, client.PermissionDenied, client.ScopeMissing)
	switch {
	case !run.automatic:
	case err == nil && run.more:
		s.NextAutomatic = s.Finished // the next periodic call continues
	case err == nil && s.Failed == 0, s.Denied:
		s.NextAutomatic = s.Finished.Add(tidyPeriod)
	}
	ended := *s
	run.over, t.unsaved = true, true
	t.mu.Unlock()

	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), tidySaveBudget)
	defer cancel()
	if err := b.saveTidy(last, run.storage); err != nil {
		b.Logger().Warn("how tidy ended could not be stored yet", "error", err)
	}
	report := b.Logger().Info
	if ended.State == tidyFailed {
		report = b.Logger().Warn
	}
	report("tidy ended", "state", ended.State, "found", ended.Found, "deleted", ended.Deleted, "failed", ended.Failed,
		"dry_run", ended.DryRun, "automatic", ended.Automatic, "error", ended.LastError)
	b.event("tidy-finish", "tidy", "state", ended.State, "found", strconv.Itoa(ended.Found), "deleted", strconv.Itoa(ended.Deleted),
		"failed", strconv.Itoa(ended.Failed), "dry_run", strconv.FormatBool(ended.DryRun))
}
