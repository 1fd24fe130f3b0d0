// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/automatedrotationutil"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// managingHost is a host with a rotation manager, as Vault Enterprise is, until it has none.
type managingHost struct {
	*logical.StaticSystemView
	now func() time.Time

	mu      sync.Mutex
	without bool
	jobs    map[string]*rotation.RotationJobConfigureRequest
}

func (h *managingHost) RegisterRotationJobWithResponse(_ context.Context, req *rotation.RotationJobConfigureRequest) (*rotation.RotationInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.without {
		return nil, automatedrotationutil.ErrRotationManagerUnsupported
	}
	h.jobs[req.MountPoint+req.ReqPath] = req
	next := req.MigratedLegacyNextRotationTime
	if next.IsZero() {
		next = h.now().Add(req.RotationPeriod)
	}
	return &rotation.RotationInfo{NextVaultRotation: next}, nil
}

func (h *managingHost) DeregisterRotationJob(_ context.Context, req *rotation.RotationJobDeregisterRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.without {
		return automatedrotationutil.ErrRotationManagerUnsupported
	}
	delete(h.jobs, req.MountPoint+req.ReqPath)
	return nil
}

func (h *managingHost) GetRotationInformation(context.Context, *rotation.RotationInfoRequest) (*rotation.RotationInfoResponse, error) {
	return nil, automatedrotationutil.ErrRotationManagerUnsupported
}

// lose makes the manager forget what it was told, and, with gone, the host have none any more.
func (h *managingHost) lose(gone bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.without = gone
	clear(h.jobs)
}

// job is what the manager keeps of the mount's config, nil for nothing.
func (h *managingHost) job() *rotation.RotationJobConfigureRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.jobs["databricks/config"]
}

// onManagingHost is a mount, connected and rotated once a day, whose host has a rotation manager.
func onManagingHost(t *testing.T) (*mount, *clock, *managingHost) {
	t.Helper()
	m, c := newTimedMount(t)
	h := &managingHost{StaticSystemView: m.system, now: c.now, jobs: map[string]*rotation.RotationJobConfigureRequest{}}
	conf := m.config()
	conf.System = h
	b, err := Factory(context.Background(), conf)
	require.NoError(t, err)
	b.(*backend).clock = c.now
	m.backend = b
	m.connect(map[string]any{"rotation_period": "24h", "max_retries": 0})
	require.Equal(t, day, h.job().RotationPeriod)
	require.Equal(t, "vault", m.read("status").Data["rotated_by"])
	return m, c, h
}

// TestALostScheduleIsHandedOverAgain shows that a write of the config restores what the rotation manager has lost, with the time that
// it was to rotate at.
func TestALostScheduleIsHandedOverAgain(t *testing.T) {
	t.Parallel()
	m, c, h := onManagingHost(t)
	next := m.moment(m.read("config").Data["next_vault_rotation"])
	c.advance(10 * time.Hour)
	h.lose(false)
	for _, data := range []map[string]any{{"rotation_period": "24h"}, {"ttl": "1h"}} {
		m.write("config", data)
		require.Equal(t, day, h.job().RotationPeriod)
		require.WithinDuration(t, next, h.job().MigratedLegacyNextRotationTime, time.Second)
		require.Equal(t, next, m.moment(m.read("config").Data["next_vault_rotation"]))
		h.lose(false)
	}
	m.write("config", map[string]any{"rotation_period": "48h"})
	require.Equal(t, 2*day, h.job().RotationPeriod)
	require.Zero(t, h.job().MigratedLegacyNextRotationTime, "another schedule begins anew")
}

// TestASilentRotationManagerIsNotWaitedForInVain shows that the engine takes over when the manager is too late, whether it has lost
// the schedule or the storage came to a host without one.
func TestASilentRotationManagerIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	for name, gone := range map[string]bool{"lost": false, "without": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c, h := onManagingHost(t)
			h.lose(gone)
			m.goOn(c, day+managedPatience-10*time.Minute, 10*time.Minute)
			require.Nil(t, m.read("config").Data["last_vault_rotation"], "not before")
			m.goOn(c, 20*time.Minute, 10*time.Minute)
			require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), 20*time.Minute)
			m.requireRoot()
			m.goOn(c, 10*day, time.Hour)
			require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), day+managedPatience+time.Hour)
			m.requireRoot()

			if !gone {
				return
			}
			// A write of the config notices that there is no manager.
			m.write("config", map[string]any{"rotation_period": "24h"})
			require.Equal(t, "engine", m.read("status").Data["rotated_by"])
			m.goOn(c, 3*day, time.Hour)
			require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), day+2*time.Hour)
		})
	}
}

// TestTheEndOfACredentialIsNotLeftToTheManager shows that patience ends before the credential does.
func TestTheEndOfACredentialIsNotLeftToTheManager(t *testing.T) {
	t.Parallel()
	m, c, h := onManagingHost(t)
	ends := m.moment(m.write("config/rotate-root", nil).Data["expiry_time"])
	m.write("config", map[string]any{"rotation_period": "4320h"})
	h.lose(false)
	next := m.moment(m.read("config").Data["next_vault_rotation"])
	require.True(t, next.Before(ends.Add(-day)))
	m.goOn(c, 100*day, 6*time.Hour)
	m.requireRoot()
	require.WithinDuration(t, next, m.moment(m.read("config").Data["last_vault_rotation"]), 7*time.Hour)
}

// TestAConfigThatCouldNotBeDeletedIsStillManaged shows that the rotation manager is told to let go only of what is gone.
func TestAConfigThatCouldNotBeDeletedIsStillManaged(t *testing.T) {
	t.Parallel()
	m, _, h := onManagingHost(t)
	m.storage.onEach(func(op, key string) error {
		if op == "delete" && key == configStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	require.ErrorContains(t, m.failure(m.do(logical.DeleteOperation, "config", nil)), "disk full")
	m.storage.onEach(nil)
	require.NotNil(t, h.job())
	require.Equal(t, "vault", m.read("status").Data["rotated_by"])

	m.storage.afterEach(func(op, key string) error {
		if op == "delete" && key == configStorageKey {
			return errors.New("the leader stepped down")
		}
		return nil
	})
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.requireOK(resp, err)
	require.Nil(t, h.job())
}

// TestAConfigThatCouldNotBeSavedIsNotManaged shows that the manager keeps what is stored.
func TestAConfigThatCouldNotBeSavedIsNotManaged(t *testing.T) {
	t.Parallel()
	m, _, h := onManagingHost(t)
	next := m.moment(m.read("config").Data["next_vault_rotation"])
	m.storage.onEach(func(op, key string) error {
		if op == "put" && key == configStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	for _, data := range []map[string]any{{"rotation_period": "72h"}, {"rotation_period": 0}, {"disable_automated_rotation": true}} {
		require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "config", data)), "disk full")
		require.NotNil(t, h.job(), data)
		require.Equal(t, day, h.job().RotationPeriod, data)
		require.WithinDuration(t, next, h.job().MigratedLegacyNextRotationTime, time.Second)
	}
}

// TestTwoWritersOfAManagedConfig lets a slow write lose against a quick one: the manager keeps the schedule of the one that is stored.
func TestTwoWritersOfAManagedConfig(t *testing.T) {
	t.Parallel()
	for name, quick := range map[string]map[string]any{
		"another period": {"rotation_period": "48h"},
		"none":           {"rotation_period": 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _, h := onManagingHost(t)
			hold := make(chan struct{})
			fault := m.workspace.Inject(simulator.Fault{Path: "/api/2.0/preview/scim/v2/Me", Hold: hold, Times: 1})
			slow := make(chan error)
			go func() {
				_, err := m.backend.HandleRequest(context.Background(), &logical.Request{
					Operation: logical.UpdateOperation, Path: "config", Data: map[string]any{"rotation_period": "72h"}, Storage: m.storage, MountPoint: "databricks/",
				})
				slow <- err
			}()
			require.Eventually(t, func() bool { return fault.Hits() == 1 }, 10*time.Second, time.Millisecond)
			m.write("config", quick)
			close(hold)
			require.ErrorContains(t, <-slow, "changed by somebody else")
			stored := m.read("config").Data
			if name == "none" {
				require.Zero(t, stored["rotation_period"])
				require.Nil(t, h.job())
				return
			}
			require.EqualValues(t, 48*3600, stored["rotation_period"])
			require.Equal(t, 2*day, h.job().RotationPeriod)
		})
	}
}
