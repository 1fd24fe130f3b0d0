// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// lateStorage says of one put that it failed, and applies it later, as integrated storage may after a time-out.
type lateStorage struct {
	logical.Storage
	late  func(key string) bool // whether the next put of the key is the one
	entry *logical.StorageEntry // until it is applied

	// reader is called, once, before the entry is applied at its next read.
	reader func()
}

func (s *lateStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if s.late != nil && s.late(entry.Key) {
		held := *entry
		s.entry, s.late = &held, nil
		return errors.New("timed out")
	}
	return s.Storage.Put(ctx, entry)
}

func (s *lateStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if s.entry != nil && key == s.entry.Key && s.reader != nil {
		reader := s.reader
		s.reader = nil
		reader()
		if err := s.apply(ctx); err != nil {
			return nil, err
		}
	}
	return s.Storage.Get(ctx, key)
}

func (s *lateStorage) apply(ctx context.Context) error {
	entry := s.entry
	s.entry = nil
	return s.Storage.Put(ctx, entry)
}

// TestASaveThatIsAppliedLateIsNotOverwritten lets the save of a rotated static role time out and be applied all the same, after a reader
// has put the old entry into memory: no credential is lost from sight.
func TestASaveThatIsAppliedLateIsNotOverwritten(t *testing.T) {
	t.Parallel()
	t.Run("by rotate-role", func(t *testing.T) {
		t.Parallel()
		m, c := newTimedMount(t)
		late := &lateStorage{Storage: m.storage.Storage}
		m.storage.Storage = late
		m.connect(map[string]any{"max_retries": 0})
		m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_grace_period": "1h"})
		late.late = func(key string) bool { return key == "static/x" }
		_, err := m.do(logical.UpdateOperation, "rotate-role/x", nil)
		require.ErrorContains(t, err, "timed out")
		m.read("static-creds/x")
		require.NoError(t, late.apply(t.Context()))
		c.advance(3 * time.Minute)
		m.tick()
		require.Empty(t, m.walEntries(), "the storage has the credential")

		m.write("rotate-role/x", nil)
		m.goOn(c, 2*time.Hour, 10*time.Minute)
		require.Len(t, m.minted(), 1)
		require.Equal(t, m.minted()[0].ID, m.read("static-roles/x").Data["credential_id"])
	})
	t.Run("by the periodic call", func(t *testing.T) {
		t.Parallel()
		m, c := newTimedMount(t)
		late := &lateStorage{Storage: m.storage.Storage}
		m.storage.Storage = late
		m.connect(map[string]any{"max_retries": 0})
		m.write("static-roles/x", map[string]any{"credential_type": "pat", "rotation_grace_period": "1h", "rotation_period": "24h"})
		c.advance(day + time.Minute)
		late.late = func(key string) bool { return key == "static/x" && len(m.minted()) == 2 }
		late.reader = func() { m.read("static-creds/x") }
		_, err := m.rollback()
		require.NoError(t, err)
		m.goOn(c, 3*time.Hour, time.Minute)
		require.Len(t, m.minted(), 1)
		require.Equal(t, m.minted()[0].ID, m.read("static-roles/x").Data["credential_id"])
	})
}

// TestWhatIsGoneIsForgottenWhateverTheConfig has an operator connect the mount elsewhere while a retired credential of the engine is being
// removed: it isn't looked for at the new place.
func TestWhatIsGoneIsForgottenWhateverTheConfig(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	other := bareMount(t, simulator.WithClock(c.now), simulator.WithWorkspaceID("4242"))
	m.connect(map[string]any{"max_retries": 0})
	m.write("config/rotate-root", nil)
	m.write("config/rotate-root", nil)
	retired := m.read("config").Data["retired_ids"].([]string)
	require.Len(t, retired, 1)
	c.advance(10 * time.Minute)
	hold := make(chan struct{})
	m.workspace.Inject(simulator.Fault{Path: deletePath, Times: 1, AfterEffect: true, Hold: hold})
	done := make(chan error, 1)
	go func() {
		_, err := m.rollback()
		done <- err
	}()
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(m.workspace.Tokens(), func(token simulator.Token) bool { return token.ID == retired[0] })
	}, 10*time.Second, time.Millisecond)
	m.write("config", map[string]any{"host": other.workspace.URL(), "token": other.token}) // before it is recorded
	close(hold)
	require.NoError(t, <-done)
	m.goOn(c, time.Hour, 10*time.Minute)
	require.NotContains(t, m.read("config").Data["retired_ids"], retired[0])
}

// slowHost calls hold before it deregisters the first job.
type slowHost struct {
	*rotationHost
	hold func()
}

func (h *slowHost) DeregisterRotationJob(ctx context.Context, req *rotation.RotationJobDeregisterRequest) error {
	if hold := h.hold; hold != nil {
		h.hold = nil
		hold()
	}
	return h.rotationHost.DeregisterRotationJob(ctx, req)
}

// TestALateDeregistrationRemovesNoNewerJob has a second write bring a schedule back before the first, which took it away, has told the
// rotation manager so.
func TestALateDeregistrationRemovesNoNewerJob(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	second := make(chan error, 1)
	slow := &slowHost{rotationHost: host}
	slow.hold = func() {
		go func() {
			_, err := r.do(logical.UpdateOperation, "config", map[string]any{"disable_automated_rotation": false})
			second <- err
		}()
		b := r.backend.(*backend)
		require.Eventually(t, func() bool { return b.jobLocks.Waiting(configStorageKey) == 2 }, 10*time.Second, time.Millisecond)
	}
	r.host = slow
	b, err := Factory(t.Context(), r.mount.config())
	require.NoError(t, err)
	b.(*backend).clock = r.clock.now
	r.backend = b
	r.write("config", map[string]any{"disable_automated_rotation": true})
	require.NoError(t, <-second)
	require.True(t, r.stored().Rotation.Managed)
	require.NotNil(t, host.job(), "the manager has the job that the config says")
}

// failOnce lets the next save of the config fail.
func (r *rootMount) failOnce() {
	failed := false
	r.storage.onEach(func(op, key string) error {
		if op == "put" && key == configStorageKey && !failed {
			failed = true
			return errors.New("no quorum")
		}
		return nil
	})
}

// TestTheWriteThatRepairsAJobKeepsTheStoredTime shows that the time of a schedule that could not be saved is not taken for that of the
// stored one.
func TestTheWriteThatRepairsAJobKeepsTheStoredTime(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	next := r.stored().Rotation.Next
	r.failOnce()
	_, err := r.do(logical.UpdateOperation, "config", map[string]any{"rotation_period": "8700h"})
	require.ErrorContains(t, err, "no quorum")
	r.write("config", map[string]any{"ttl": "10m"})
	require.Equal(t, day, host.job().RotationPeriod)
	require.Equal(t, next.Unix(), host.job().MigratedLegacyNextRotationTime.Unix())
}

// TestDeletingTheConfigRemovesAJobThatWasNeverSaved shows that a job goes with the config, even if the config doesn't know of it.
func TestDeletingTheConfigRemovesAJobThatWasNeverSaved(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(nil)
	r.failOnce()
	_, err := r.do(logical.UpdateOperation, "config", map[string]any{"rotation_period": "24h"})
	require.ErrorContains(t, err, "no quorum")
	require.NotNil(t, host.job())
	resp, err := r.managed()
	r.requireOK(resp, err)
	require.Empty(t, r.made(), "which rotates nothing")
	resp, err = r.do(logical.DeleteOperation, "config", nil)
	r.requireOK(resp, err)
	require.Nil(t, host.job())
}
