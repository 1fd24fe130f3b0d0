// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/helper/automatedrotationutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/rotation"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/schedule"
	"vault-plugin-secrets-databricks/internal/simulator"
)

// rotationHost is a host with a rotation manager, as Vault Enterprise is. It keeps the jobs that it was given, and calls nobody by
// itself: a test does, with managed.
type rotationHost struct {
	*logical.StaticSystemView
	now func() time.Time

	mu        sync.Mutex
	refuse    error // what it answers whatever it is asked, if not nil
	jobs      map[string]rotation.RotationJobConfigureRequest
	requested []string
}

func (h *rotationHost) begin(what string) error {
	h.requested = append(h.requested, what)
	return h.refuse
}

func (h *rotationHost) RegisterRotationJobWithResponse(_ context.Context, req *rotation.RotationJobConfigureRequest) (*rotation.RotationInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.begin("register"); err != nil {
		return nil, err
	}
	if _, err := rotation.ConfigureRotationJob(req); err != nil {
		return nil, err
	}
	h.jobs[req.MountPoint+req.ReqPath] = *req
	return &rotation.RotationInfo{RotationID: "job-1", NextVaultRotation: h.next(req)}, nil
}

func (h *rotationHost) next(req *rotation.RotationJobConfigureRequest) time.Time {
	if req.RotationPeriod > 0 {
		return h.now().Add(req.RotationPeriod).Truncate(time.Second)
	}
	parsed, err := rotation.DefaultScheduler.Parse(req.RotationSchedule)
	if err != nil {
		return time.Time{}
	}
	return parsed.Next(h.now())
}

func (h *rotationHost) DeregisterRotationJob(_ context.Context, req *rotation.RotationJobDeregisterRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.begin("deregister"); err != nil {
		return err
	}
	delete(h.jobs, req.MountPoint+req.ReqPath)
	return nil
}

func (h *rotationHost) GetRotationInformation(_ context.Context, req *rotation.RotationInfoRequest) (*rotation.RotationInfoResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return nil, h.refuse
	}
	job, ok := h.jobs["databricks/"+req.ReqPath]
	if !ok {
		return nil, errors.New("no such job")
	}
	return &rotation.RotationInfoResponse{NextVaultRotation: h.next(&job)}, nil
}

// set changes what the host answers.
func (h *rotationHost) set(refuse error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.refuse = refuse
}

// job is the one that the host keeps for the mount, nil for none.
func (h *rotationHost) job() *rotation.RotationJobConfigureRequest {
	h.mu.Lock()
	defer h.mu.Unlock()
	job, ok := h.jobs["databricks/config"]
	if !ok {
		return nil
	}
	return &job
}

// calls are what the host was asked since the last time.
func (h *rotationHost) calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	requested := h.requested
	h.requested = nil
	return requested
}

// newManagedMount is a mount of a host with a rotation manager, without config.
func newManagedMount(t *testing.T) (*rootMount, *rotationHost) {
	t.Helper()
	c := newClock()
	m := bareMount(t, simulator.WithClock(c.now))
	host := &rotationHost{StaticSystemView: m.system, now: c.now, jobs: make(map[string]rotation.RotationJobConfigureRequest)}
	m.host = host
	b, err := Factory(t.Context(), m.config())
	require.NoError(t, err)
	b.(*backend).clock = c.now
	m.backend = b
	own := m.workspace.Tokens()[0].ID
	return &rootMount{mount: m, clock: c, kind: "pat", engine: m.admin, own: own, byHand: []string{own}}, host
}

func (r *rootMount) connectManaged(config map[string]any) {
	r.t.Helper()
	data := map[string]any{"max_retries": 0}
	for field, value := range config {
		data[field] = value
	}
	r.connect(data)
	r.write("roles/own", map[string]any{"credential_type": "pat", "ttl": "1m", "max_ttl": "2m"})
}

// managed is what the rotation manager does when a rotation is due.
func (r *rootMount) managed() (*logical.Response, error) {
	return r.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RotationOperation, Path: "config", Storage: r.storage, MountPoint: "databricks/",
	})
}

// TestRotationManagerKeepsTheSchedule shows that Vault's rotation manager is given the schedule, rotates, and gives it back.
func TestRotationManagerKeepsTheSchedule(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(nil)
	require.Empty(t, host.calls(), "without a schedule, there is nothing to keep")
	require.Equal(t, "nobody", r.read("status").Data["rotated_by"])

	resp := r.write("config", map[string]any{"rotation_period": "24h"})
	require.Equal(t, []string{"register"}, host.calls())
	job := host.job()
	require.Equal(t, "databricks/", job.MountPoint)
	require.Equal(t, "config", job.ReqPath)
	require.NotEmpty(t, job.Name)
	require.Equal(t, 24*time.Hour, job.RotationPeriod)
	require.WithinDuration(t, r.clock.now().Add(24*time.Hour), r.moment(resp.Data["next_vault_rotation"]), 2*time.Second)
	require.Equal(t, "vault", r.read("status").Data["rotated_by"])

	// The engine's own tick does nothing then, even if it is late.
	r.pass(24*time.Hour+30*time.Minute, 10*time.Minute)
	r.restartAt(r.clock)
	r.tick()
	require.Empty(t, r.made())
	require.WithinDuration(t, r.clock.now().Add(24*time.Hour), r.moment(r.read("config").Data["next_vault_rotation"]), 2*time.Second, "the manager says when")

	answered, err := r.managed()
	r.requireOK(answered, err)
	require.Len(t, r.made(), 1)
	r.unlogged(r.secretOf(r.stored()))
	require.WithinDuration(t, r.clock.now(), r.moment(r.read("config").Data["last_vault_rotation"]), 2*time.Second)
	answered, err = r.managed()
	r.requireOK(answered, err)
	r.pass(6*time.Minute, time.Minute) // what was replaced is removed by the engine all the same
	r.sound()
	require.Empty(t, host.calls())

	// A write that leaves the schedule as it is leaves the job as it is.
	next := r.moment(r.read("config").Data["next_vault_rotation"])
	r.write("config", map[string]any{"ttl": "10m", "rotation_period": "24h"})
	require.Equal(t, []string{"register"}, host.calls(), "again, in case it was lost")
	require.Equal(t, next.Unix(), host.job().MigratedLegacyNextRotationTime.Unix(), "with the time that it had")
	r.write("config", map[string]any{"rotation_period": 0, "rotation_schedule": "0 3 * * SAT", "rotation_window": "2h"})
	require.Equal(t, []string{"register"}, host.calls())
	require.Equal(t, "0 3 * * SAT", host.job().RotationSchedule)
	require.Equal(t, 2*time.Hour, host.job().RotationWindow)
	require.Zero(t, host.job().RotationPeriod)

	r.write("config", map[string]any{"disable_automated_rotation": true})
	require.Equal(t, []string{"deregister"}, host.calls())
	require.Nil(t, host.job())
	require.Nil(t, r.read("config").Data["next_vault_rotation"])
	r.write("config", map[string]any{"disable_automated_rotation": false})
	require.NotNil(t, host.job())
	resp, err = r.do(logical.PatchOperation, "config", map[string]any{"rotation_schedule": nil, "rotation_window": nil})
	r.requireOK(resp, err)
	require.Nil(t, host.job())

	r.write("config", map[string]any{"rotation_period": "24h"})
	resp, err = r.do(logical.DeleteOperation, "config", nil)
	r.requireOK(resp, err)
	require.Nil(t, host.job())
	resp, err = r.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	r.requireOK(resp, err)
	require.Empty(t, r.made())
}

// TestRotationPolicy shows that the policy is handed to the rotation manager, and that nobody is left to believe that the engine
// follows it.
func TestRotationPolicy(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	require.Empty(t, r.read("config").Data["rotation_policy"])
	entry, err := r.storage.Get(t.Context(), configStorageKey)
	require.NoError(t, err)
	require.NotContains(t, string(entry.Value), "rotation_policy", "as v0.1.0 stores it")
	resp := r.write("config", map[string]any{"rotation_policy": "careful"})
	require.Equal(t, "careful", resp.Data["rotation_policy"])
	require.Equal(t, "careful", host.job().RotationPolicy)
	require.NotContains(t, warnings(resp), "rotation_policy")
	r.write("config", map[string]any{"ttl": "10m"})
	require.Equal(t, "careful", host.job().RotationPolicy)
	resp, err = r.do(logical.PatchOperation, "config", map[string]any{"rotation_policy": nil})
	r.requireOK(resp, err)
	require.Empty(t, resp.Data["rotation_policy"])
	require.Empty(t, host.job().RotationPolicy)

	host.set(automatedrotationutil.ErrRotationManagerUnsupported)
	resp = r.write("config", map[string]any{"rotation_policy": "careful"})
	require.Contains(t, warnings(resp), `rotation_policy "careful" has no effect`)
	require.Contains(t, warnings(r.read("config")), `rotation_policy "careful" has no effect`)
	require.NotContains(t, r.write("static-roles/x", map[string]any{"credential_type": "pat"}).Data, "rotation_policy", "only the engine itself rotates it")
}

// TestRotationManagerAbsent shows that the engine keeps the schedule where the host has no rotation manager, in whatever words it
// says so, and that another failure is one.
func TestRotationManagerAbsent(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		answer error
		absent bool
	}{
		"unsupported":           {automatedrotationutil.ErrRotationManagerUnsupported, true},
		"unsupported, by text":  {errors.New(automatedrotationutil.ErrRotationManagerUnsupported.Error()), true},
		"unsupported, over RPC": {errors.New("rpc error: code = Unknown desc = " + automatedrotationutil.ErrRotationManagerUnsupported.Error()), true},
		"unimplemented":         {errors.New("rpc error: code = Unimplemented desc = unknown method RegisterRotationJobWithResponse for service pb.SystemView"), true},
		"not implemented":       {errors.New("RegisterRotationJob is not implemented in StaticSystemView"), true},
		"sealed":                {errors.New("Vault is sealed"), false},
		"permission":            {errors.New("rpc error: code = PermissionDenied desc = not here"), false},
		"out of time":           {context.DeadlineExceeded, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, host := newManagedMount(t)
			r.connectManaged(nil)
			host.set(row.answer)
			resp, err := r.do(logical.UpdateOperation, "config", map[string]any{"rotation_period": "24h"})
			if !row.absent {
				require.ErrorContains(t, err, "rotation manager")
				require.ErrorContains(t, err, row.answer.Error())
				require.EqualValues(t, 0, r.read("config").Data["rotation_period"], "nothing is stored that nobody keeps")
				return
			}
			r.requireOK(resp, err)
			require.Equal(t, "engine", r.read("status").Data["rotated_by"])
			next := r.read("config").Data["next_vault_rotation"]
			require.WithinDuration(t, r.clock.now().Add(24*time.Hour), r.moment(next), 2*time.Second)
			r.pass(25*time.Hour, time.Hour)
			r.pass(6*time.Minute, time.Minute)
			r.sound()
			require.Len(t, r.made(), 1)
			r.write("config", map[string]any{"rotation_period": 0})
			resp, err = r.do(logical.DeleteOperation, "config", nil)
			r.requireOK(resp, err)
		})
	}
}

// TestRotationManagerAppears shows that the schedule is handed over when the host has got a manager, and the config is written.
func TestRotationManagerAppears(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	host.set(automatedrotationutil.ErrRotationManagerUnsupported)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	require.Equal(t, "engine", r.read("status").Data["rotated_by"])
	host.set(nil)
	r.write("config", map[string]any{"ttl": "10m"})
	require.NotNil(t, host.job())
	require.Equal(t, "vault", r.read("status").Data["rotated_by"])
}

// TestRotationManagerAndStorage shows what becomes of a write that is answered by an error of the storage. The manager may then have
// another schedule than the one that is stored, but only one of manager and engine rotates, and the next write gives the manager
// what is stored.
func TestRotationManagerAndStorage(t *testing.T) {
	t.Parallel()
	period := func(h *rotationHost) time.Duration {
		if job := h.job(); job != nil {
			return job.RotationPeriod
		}
		return 0
	}
	for name, row := range map[string]struct {
		before, write map[string]any
		appears       bool // the manager, only for the write
		job           time.Duration
	}{
		"a schedule":              {nil, map[string]any{"rotation_period": "24h"}, false, 24 * time.Hour},
		"another schedule":        {map[string]any{"rotation_period": "24h"}, map[string]any{"rotation_period": "48h"}, false, 48 * time.Hour},
		"none any more":           {map[string]any{"rotation_period": "24h"}, map[string]any{"rotation_period": 0}, false, 24 * time.Hour},
		"it is switched off":      {map[string]any{"rotation_period": "24h"}, map[string]any{"disable_automated_rotation": true}, false, 24 * time.Hour},
		"no change":               {map[string]any{"rotation_period": "24h"}, map[string]any{"ttl": "10m"}, false, 24 * time.Hour},
		"the engine kept it":      {map[string]any{"rotation_period": "24h"}, map[string]any{"ttl": "10m"}, true, 24 * time.Hour},
		"the engine kept another": {map[string]any{"rotation_period": "24h"}, map[string]any{"rotation_period": "48h"}, true, 48 * time.Hour},
	} {
		for _, done := range []bool{false, true} {
			t.Run(name+map[bool]string{false: ", not stored", true: ", stored"}[done], func(t *testing.T) {
				t.Parallel()
				r, host := newManagedMount(t)
				if row.appears {
					host.set(automatedrotationutil.ErrRotationManagerUnsupported)
				}
				r.connectManaged(row.before)
				host.set(nil)
				fail := func(op, key string) error {
					if op == "put" && key == configStorageKey {
						return errors.New("disk full")
					}
					return nil
				}
				if done {
					r.storage.afterEach(fail)
				} else {
					r.storage.onEach(fail)
				}
				_, err := r.do(logical.UpdateOperation, "config", row.write)
				require.ErrorContains(t, err, "disk full")
				r.storage.onEach(nil)
				r.storage.afterEach(nil)
				require.Equal(t, row.job, period(host), "registered before the save, and deregistered after it")

				// What is stored says who rotates.
				stored := r.stored()
				scheduled := stored.effectiveSchedule().Automatic()
				if stored.Rotation.Managed {
					require.NotZero(t, period(host))
				}
				r.pass(49*time.Hour, time.Hour)
				require.Equal(t, scheduled && !stored.Rotation.Managed, len(r.made()) > 0, "by the engine")
				before := r.made()
				resp, err := r.managed()
				r.requireOK(resp, err)
				require.Equal(t, scheduled && stored.Rotation.Managed, !slices.Equal(before, r.made()), "by the manager")
				r.pass(6*time.Minute, time.Minute)
				r.sound()

				r.write("config", map[string]any{"ttl": "11m"})
				if scheduled {
					require.Equal(t, seconds(stored.Period), period(host))
				}
				require.Equal(t, scheduled, r.stored().Rotation.Managed)
				if !scheduled {
					before = r.made()
					resp, err = r.managed()
					r.requireOK(resp, err)
					require.Equal(t, before, r.made(), "a job that is left rotates nothing")
				}
			})
		}
	}

	t.Run("a delete that fails", func(t *testing.T) {
		t.Parallel()
		r, host := newManagedMount(t)
		r.connectManaged(map[string]any{"rotation_period": "24h"})
		host.set(errors.New("Vault is sealed"))
		resp, err := r.do(logical.DeleteOperation, "config", nil)
		r.requireOK(resp, err)
		require.Contains(t, strings.Join(resp.Warnings, ""), "rotation manager may go on")

		host.set(nil)
		r.connectManaged(map[string]any{"rotation_period": "24h", "host": r.workspace.URL(), "token": r.token})
		r.storage.onEach(func(op, key string) error {
			if op == "delete" {
				return errors.New("disk full")
			}
			return nil
		})
		_, err = r.do(logical.DeleteOperation, "config", nil)
		require.ErrorContains(t, err, "disk full")
		r.storage.onEach(nil)
		require.Equal(t, 24*time.Hour, period(host), "what stays is still rotated")
	})

	t.Run("it is registered before it is stored", func(t *testing.T) {
		t.Parallel()
		r, host := newManagedMount(t)
		r.connectManaged(nil)
		seen := false
		r.storage.onEach(func(op, key string) error {
			if op == "put" && key == configStorageKey {
				seen = host.job() != nil
			}
			return nil
		})
		r.write("config", map[string]any{"rotation_period": "24h"})
		r.storage.onEach(nil)
		require.True(t, seen)
	})
}

// TestRotationManagerWritesAtOnce shows that a write which lost against another says what is to be done: the manager
// has the schedule of the one that lost, until the next write.
func TestRotationManagerWritesAtOnce(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(nil)
	var once sync.Once
	r.storage.onEach(func(op, key string) error {
		// The loser has registered its job, and looks once more before it stores.
		if op == "get" && key == configStorageKey && slices.Contains(host.calls(), "register") {
			once.Do(func() {
				r.storage.onEach(nil)
				winner := r.stored()
				winner.TTL, winner.Period, winner.Rotation.Managed = 77, 172800, true
				require.NoError(t, putConfig(context.Background(), r.storage.Storage, winner))
				_, err := host.RegisterRotationJobWithResponse(context.Background(), &rotation.RotationJobConfigureRequest{
					Name: rotationJobName, MountPoint: "databricks/", ReqPath: rotationJobPath, RotationPeriod: 48 * time.Hour,
				})
				require.NoError(t, err)
			})
		}
		return nil
	})
	resp, err := r.do(logical.UpdateOperation, "config", map[string]any{"rotation_period": "24h"})
	r.coded(http.StatusConflict, resp, err)
	require.EqualValues(t, 172800, r.stored().Period)
	require.True(t, r.stored().Rotation.Managed)
	require.NotNil(t, host.job(), "one of the two schedules")
	require.Contains(t, r.log.String(), "may have a schedule that was not stored")
	r.write("config", map[string]any{"ttl": "11m"})
	require.Equal(t, 48*time.Hour, host.job().RotationPeriod, "the winner's schedule is followed")
}

// TestRotationManagerFailure shows that a rotation which fails is an error for the manager, which tries again, and is visible.
func TestRotationManagerFailure(t *testing.T) {
	t.Parallel()
	r, _ := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	for i, fault := range []simulator.Fault{
		{Path: createPath, Status: 500, Message: "boom"},
		{Path: createPath, Status: 400, ErrorCode: "BAD_REQUEST", Message: "boom"},
		{Path: mePath, Status: 403, Message: "boom"},
		{Path: listPath, Status: 429, Message: "boom"},
	} {
		r.workspace.Inject(fault)
		resp, err := r.managed()
		require.ErrorContains(t, err, "boom", "an answer to a user would look like a success to the manager")
		require.Nil(t, resp)
		r.workspace.ClearFaults()
		for _, path := range []string{"config", "status"} {
			data := r.read(path).Data
			require.EqualValues(t, i+1, data["rotation_failures"])
			require.Contains(t, data["last_rotation_error"], "boom")
			require.Nil(t, data["next_rotation_attempt"], "that is for the manager to decide")
		}
		sent := r.sent()
		last := sent[len(sent)-1]
		require.Equal(t, "databricks/root-rotate-fail", string(last.Type))
		r.tick()
		r.sound()
	}
	r.pass(2*time.Hour, 10*time.Minute)
	require.Empty(t, r.made(), "the engine's own tick doesn't try again")
	resp, err := r.managed()
	r.requireOK(resp, err)
	require.EqualValues(t, 0, r.read("config").Data["rotation_failures"])
	require.Empty(t, r.read("config").Data["last_rotation_error"])
	r.sound()

	// Where the storage has the new credential all the same, nothing is left to try again.
	r.storage.afterEach(func(op, key string) error {
		if op == "put" && key == configStorageKey {
			r.storage.afterEach(nil)
			return errors.New("the leader stepped down")
		}
		return nil
	})
	resp, err = r.managed()
	r.requireOK(resp, err)
	require.EqualValues(t, 0, r.read("config").Data["rotation_failures"])
	r.pass(6*time.Minute, time.Minute)
	r.sound()

	// On a node that may not write, the manager is told.
	r.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	_, err = r.managed()
	require.ErrorIs(t, err, logical.ErrReadOnly)
	r.system.ReplicationStateVal = 0

	resp, err = r.do(logical.DeleteOperation, "config", nil)
	r.requireOK(resp, err)
	_, err = r.managed()
	require.ErrorContains(t, err, "no connection yet")
}

// TestRotationManagerSilent shows that a manager which doesn't tell when it rotates next hinders nobody.
func TestRotationManagerSilent(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	next := r.moment(r.read("config").Data["next_vault_rotation"])
	host.set(errors.New("Vault is sealed"))
	require.Equal(t, next, r.moment(r.read("config").Data["next_vault_rotation"]))
	require.Equal(t, next, r.moment(r.read("status").Data["next_vault_rotation"]))
	r.write("config", map[string]any{"ttl": "10m"})
	require.True(t, r.stored().Rotation.Managed)
}

// TestRotationManagerAndUnreadableStorage shows that it is logged when the manager may have a schedule that was not stored, and that
// writing the config again is enough.
func TestRotationManagerAndUnreadableStorage(t *testing.T) {
	t.Parallel()
	r, host := newManagedMount(t)
	r.connectManaged(map[string]any{"rotation_period": "24h"})
	r.storage.onEach(func(op, key string) error {
		if host.job().RotationPeriod != 48*time.Hour {
			return nil
		}
		return errors.New("disk full")
	})
	_, err := r.do(logical.UpdateOperation, "config", map[string]any{"rotation_period": "48h"})
	require.ErrorContains(t, err, "disk full")
	r.storage.onEach(nil)
	require.EqualValues(t, 86400, r.stored().Period)
	require.True(t, r.stored().Rotation.Managed)
	require.Contains(t, r.log.String(), "may have a schedule that was not stored")
	r.write("config", map[string]any{"rotation_period": "24h"})
	require.Equal(t, 24*time.Hour, host.job().RotationPeriod)
}

// managedFor is a mount with the config whose host has a rotation manager. The first token is made by hand, to live for so long.
func managedFor(t *testing.T, life time.Duration, config map[string]any, opts ...simulator.Option) (*mount, *clock, *managingHost) {
	t.Helper()
	m, c := newTimedMount(t, opts...)
	h := &managingHost{StaticSystemView: m.system, now: c.now, jobs: map[string]*rotation.RotationJobConfigureRequest{}}
	m.host = h
	m.restartAt(c)
	m.connect(map[string]any{"token": m.byHand(life), "max_retries": 0}, config)
	require.Equal(t, "vault", m.read("status").Data["rotated_by"])
	return m, c, h
}

// TestAManagersLossEndsNoCredential lets the rotation manager lose the schedule: the engine replaces the credential before it ends, each
// time.
func TestAManagersLossEndsNoCredential(t *testing.T) {
	t.Parallel()
	for name, life := range map[string]time.Duration{"a week": 7 * day, "five hours": 5 * time.Hour, "three hours": 3 * time.Hour} {
		for access, gone := range map[string]bool{"lost": false, "without a manager": true} {
			t.Run(name+", "+access, func(t *testing.T) {
				t.Parallel()
				m, c, h := managedFor(t, min(life, 6*time.Hour), map[string]any{"rotation_period": "2h"}, simulator.WithMaxTokenLifetime(life))
				m.write("config/rotate-root", nil)
				h.lose(gone)
				total := max(2*day, 2*life)
				for range total / (10 * time.Minute) {
					m.goOn(c, 10*time.Minute, 10*time.Minute)
					m.requireRoot()
				}
				require.GreaterOrEqual(t, len(m.told("root-rotate")), int(total/life))
				require.Equal(t, "vault", m.read("status").Data["rotated_by"], "the next write of the config tells whether it still does")
			})
		}
	}
}

// TestARotationBeforeTheEndIsTriedAgain shows that the engine tries again when it could not rotate in the place of a manager that has
// lost the schedule.
func TestARotationBeforeTheEndIsTriedAgain(t *testing.T) {
	t.Parallel()
	for access, gone := range map[string]bool{"lost": false, "without a manager": true} {
		t.Run(access, func(t *testing.T) {
			t.Parallel()
			m, c, h := managedFor(t, 10*day, map[string]any{"rotation_period": "24h"})
			h.lose(gone)
			m.workspace.Inject(simulator.Fault{Path: createPath, Status: 403, Times: 1})
			m.goOn(c, 7*day, time.Hour)
			require.Empty(t, m.told("root-rotate-fail"), "there is time yet")
			for c.now().Before(newClock().at.Add(9*day)) && len(m.told("root-rotate-fail")) == 0 {
				m.goOn(c, time.Minute, time.Minute)
			}
			for _, path := range []string{"config", "status"} {
				state := m.read(path).Data
				require.Equal(t, 1, state["rotation_failures"], path)
				require.WithinDuration(t, c.now().Add(schedule.FirstRetry), m.moment(state["next_rotation_attempt"]), 2*time.Second, path)
			}
			m.goOn(c, 2*time.Minute, time.Minute)
			require.Len(t, m.told("root-rotate-fail"), 1)
			require.Len(t, m.told("root-rotate"), 1)
			m.requireRoot()
		})
	}
}

// TestAJobThatIsNoLongerWantedRotatesNothing lets the manager call for a schedule that is no longer stored.
func TestAJobThatIsNoLongerWantedRotatesNothing(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]map[string]any{
		"disabled":  {"disable_automated_rotation": true},
		"no period": {"rotation_period": 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c, _ := managedFor(t, 0, map[string]any{"rotation_period": "24h"})
			m.write("config", off)
			m.workspace.ResetCalls()
			c.advance(day)
			b := m.backend.(*backend)
			require.NoError(t, b.rotateManaged(t.Context(), &logical.Request{Storage: m.storage, MountPoint: "databricks/"}))
			require.Nil(t, m.read("config").Data["last_vault_rotation"])
			require.Zero(t, m.workspace.Count("", createPath))
			require.Empty(t, m.told("root-rotate-fail"))
			m.requireRoot()
		})
	}
}

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

// TestAWriteNoticesThatThereIsNoManager shows that the engine follows the schedule from the next write of the config on, after the
// storage came to a host without a rotation manager.
func TestAWriteNoticesThatThereIsNoManager(t *testing.T) {
	t.Parallel()
	m, c, h := onManagingHost(t)
	h.lose(true)
	m.goOn(c, 10*day, time.Hour)
	require.Nil(t, m.read("config").Data["last_vault_rotation"], "the credential does not end, so nothing is urgent")
	m.requireRoot()
	m.write("config", map[string]any{"rotation_period": "24h"})
	require.Equal(t, "engine", m.read("status").Data["rotated_by"])
	for range 3 {
		m.goOn(c, day, time.Hour)
		require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), day+2*time.Hour)
	}
	m.requireRoot()
}

// TestTheEndOfACredentialIsNotLeftToTheManager shows that the engine replaces a credential that is about to end.
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

// TestAConfigThatCouldNotBeSavedIsManagedAgain shows that a job outlives a write that ends it and fails, and that another job than
// the stored one is set right by the next write, with the time that it had.
func TestAConfigThatCouldNotBeSavedIsManagedAgain(t *testing.T) {
	t.Parallel()
	m, _, h := onManagingHost(t)
	next := m.moment(m.read("config").Data["next_vault_rotation"])
	for _, row := range []struct {
		data map[string]any
		job  time.Duration
	}{{map[string]any{"rotation_period": 0}, day}, {map[string]any{"disable_automated_rotation": true}, day}, {map[string]any{"rotation_period": "72h"}, 3 * day}} {
		m.storage.onEach(func(op, key string) error {
			if op == "put" && key == configStorageKey {
				return errors.New("disk full")
			}
			return nil
		})
		require.ErrorContains(t, m.failure(m.do(logical.UpdateOperation, "config", row.data)), "disk full")
		m.storage.onEach(nil)
		require.NotNil(t, h.job(), row.data)
		require.Equal(t, row.job, h.job().RotationPeriod, row.data)
		m.write("config", map[string]any{"ttl": "10m"})
		require.Equal(t, day, h.job().RotationPeriod, row.data)
		require.WithinDuration(t, next, h.job().MigratedLegacyNextRotationTime, time.Second)
	}
}

// TestTwoWritersOfAManagedConfig lets a slow write lose against a quick one: what the quick one has stored says what the manager may
// do, and writing it again gives the manager its schedule.
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
			require.Contains(t, m.log.String(), "may have a schedule that was not stored")
			if name == "none" {
				require.Zero(t, stored["rotation_period"])
				b := m.backend.(*backend)
				require.NoError(t, b.rotateManaged(t.Context(), &logical.Request{Storage: m.storage, MountPoint: "databricks/"}))
				require.Nil(t, m.read("config").Data["last_vault_rotation"], "the manager's calls rotate nothing")
				m.write("config", map[string]any{"rotation_period": "48h"})
				require.Equal(t, 2*day, h.job().RotationPeriod)
				m.write("config", quick)
				require.Nil(t, h.job())
				return
			}
			require.EqualValues(t, 48*3600, stored["rotation_period"])
			require.Equal(t, "vault", m.read("status").Data["rotated_by"])
			m.write("config", quick)
			require.Equal(t, 2*day, h.job().RotationPeriod)
		})
	}
}
