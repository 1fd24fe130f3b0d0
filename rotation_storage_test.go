// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// strictStorage minds contexts, as storage that is reached over gRPC does.
type strictStorage struct{ logical.Storage }

func (s strictStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s strictStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Storage.Put(ctx, entry)
}

// unreadables make the entry of a static role one that can't be read.
var unreadables = map[string]func(entry []byte) []byte{
	"unknown type": func(entry []byte) []byte {
		return bytes.ReplaceAll(entry, []byte(`"credential_type":"pat"`), []byte(`"credential_type":"hologram"`))
	},
	"no type":       func(entry []byte) []byte { return bytes.ReplaceAll(entry, []byte(`"credential_type":"pat"`), nil) },
	"empty object":  func([]byte) []byte { return []byte("{}") },
	"null":          func([]byte) []byte { return []byte("null") },
	"garbage":       func([]byte) []byte { return []byte("garbage") },
	"cut off":       func(entry []byte) []byte { return entry[:len(entry)/2] },
	"nothing":       func([]byte) []byte { return nil },
	"no credential": func([]byte) []byte { return []byte(`{"credential_type":"pat","state":{"answer":{}}}`) },
	"other shapes":  func([]byte) []byte { return []byte(`{"credential_type":["pat"],"state":[]}`) },
}

// TestAnUncertainSaveThatWasDoneIsNoFailure lets the storage say that a rotation could not be saved, although it was.
func TestAnUncertainSaveThatWasDoneIsNoFailure(t *testing.T) {
	t.Parallel()
	for path, key := range map[string]string{"config": configStorageKey, "static-roles/x": staticStoragePrefix + "x"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			if path != "config" {
				m.write(path, map[string]any{"credential_type": "pat"})
			}
			made := m.write(path, map[string]any{"rotation_period": "24h"}).Data["credential_id"]
			c.advance(day + time.Minute)
			m.workspace.ResetCalls()
			failed := 0
			m.storage.afterEach(func(op, k string) error {
				if op == "put" && k == key && failed == 0 {
					failed++
					return errors.New("the leader stepped down")
				}
				return nil
			})
			m.tick()
			require.Equal(t, 1, failed)
			m.goOn(c, 3*time.Hour, time.Minute)
			role := m.read(path).Data
			require.NotEqual(t, made, role["credential_id"])
			require.Zero(t, role["rotation_failures"])
			require.Empty(t, role["last_rotation_error"])
			require.Nil(t, role["next_rotation_attempt"])
			require.Equal(t, m.moment(role["last_vault_rotation"]).Add(day), m.moment(role["next_vault_rotation"]))
			require.Equal(t, 1, m.workspace.Count("", createPath), "once")
			require.Empty(t, m.told("root-rotate-fail"))
			require.Empty(t, m.told("static-rotate-fail"))
			require.Empty(t, m.walEntries())
			require.Len(t, m.minted(), 1)
			require.Equal(t, role["credential_id"], m.minted()[0].ID)
			m.requireRoot()
		})
	}
}

// TestDeletingAConfigThatIsGoneAllTheSame lets the storage say that the config could not be deleted, although it was: what a rotation
// made is removed, and what was made by hand stays.
func TestDeletingAConfigThatIsGoneAllTheSame(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	sp, byHand := m.connectPrincipal(nil)
	m.write("config/rotate-root", nil)
	m.write("config/rotate-root", nil)
	require.Len(t, m.secretIDs(sp), 3)
	m.storage.afterEach(func(op, key string) error {
		if op == "delete" && key == configStorageKey {
			return errors.New("the leader stepped down")
		}
		return nil
	})
	resp, err := m.do(logical.DeleteOperation, "config", map[string]any{"force": true})
	m.requireOK(resp, err)
	require.NotContains(t, warnings(resp), "may be left")
	require.Equal(t, []string{byHand}, m.secretIDs(sp))
	m.revive(c)
	require.Nil(t, m.absent("config"))
}

// TestAConfigThatCouldNotBeDeletedGoesOn shows that nothing is removed of a config that is still there.
func TestAConfigThatCouldNotBeDeletedGoesOn(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	sp, _ := m.connectPrincipal(map[string]any{"rotation_period": "24h"})
	m.write("config/rotate-root", nil)
	m.storage.onEach(func(op, key string) error {
		if op == "delete" && key == configStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	require.ErrorContains(t, m.failure(m.do(logical.DeleteOperation, "config", nil)), "disk full")
	m.storage.onEach(nil)
	require.Len(t, m.secretIDs(sp), 2)
	m.goOn(c, day+time.Hour, 10*time.Minute)
	require.Len(t, m.secretIDs(sp), 2)
	require.Zero(t, m.read("config").Data["rotation_failures"])
	require.WithinDuration(t, c.now(), m.moment(m.read("config").Data["last_vault_rotation"]), 2*time.Hour)
}

// TestAnUpstreamThatHangsIsAFailure shows that a rotation which does not come back within the tick's time is recorded and not tried
// again at once, although the tick can no longer do anything in its own name.
func TestAnUpstreamThatHangsIsAFailure(t *testing.T) {
	t.Parallel()
	for path, hanging := range map[string]string{"config": listPath, "static-roles/x": createPath} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.storage.Storage = strictStorage{m.storage.Storage}
			m.connect(map[string]any{"max_retries": 0, "request_timeout": 1})
			if path != "config" {
				m.write(path, map[string]any{"credential_type": "pat"})
			}
			m.write(path, map[string]any{"rotation_period": "24h"})
			c.advance(day + time.Minute)
			hold := make(chan struct{})
			defer close(hold)
			fault := m.workspace.Inject(simulator.Fault{Path: hanging, Hold: hold})
			tick := func() {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				before := fault.Hits()
				go func() {
					// The time of the tick is over while Databricks hangs.
					for ctx.Err() == nil {
						if fault.Hits() > before {
							cancel()
						}
						time.Sleep(time.Millisecond)
					}
				}()
				_, _ = m.backend.HandleRequest(ctx, &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage, Data: map[string]any{}})
			}
			for n := 1; n <= 2; n++ {
				tick()
				failed := m.read(path).Data
				require.Equal(t, n, failed["rotation_failures"])
				require.NotEmpty(t, failed["last_rotation_error"])
				require.Equal(t, n, fault.Hits())
				tick()
				require.Equal(t, n, fault.Hits(), "not before the next attempt")
				require.True(t, m.moment(failed["next_rotation_attempt"]).After(c.now().Add(time.Duration(n)*time.Minute-2*time.Second)))
				c.advance(time.Duration(n)*time.Minute + time.Second)
			}
			m.workspace.ClearFaults()
			c.advance(time.Hour)
			m.tick()
			require.Zero(t, m.read(path).Data["rotation_failures"])
		})
	}
}

// TestWhatCannotBeRemovedIsShown shows a credential of the engine that was replaced and can't be removed, until it can.
func TestWhatCannotBeRemovedIsShown(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	m.write("config/rotate-root", nil)
	old := m.write("config/rotate-root", nil).Data["retired_ids"].([]string)
	require.Len(t, old, 1)
	m.workspace.Inject(simulator.Fault{Path: deletePath, Status: 403, Message: "keep it"})
	m.goOn(c, 10*time.Minute, time.Minute)
	calls := m.workspace.Count("", deletePath)
	require.Equal(t, 1, calls, "not every minute")
	for _, path := range []string{"config", "status"} {
		shown := m.read(path).Data
		require.Contains(t, shown["pending_error"], "keep it", path)
		require.Contains(t, shown["pending_error"], old[0], path)
		require.True(t, m.moment(shown["next_pending_attempt"]).After(c.now()), path)
		require.Zero(t, shown["rotation_failures"], path)
	}
	require.Equal(t, old, m.read("config").Data["retired_ids"])
	require.Len(t, m.told("root-rotate-fail"), 1)
	m.restartAt(c)
	m.goOn(c, 2*time.Hour, time.Minute)
	require.Equal(t, 3, m.workspace.Count("", deletePath))

	m.workspace.ClearFaults()
	m.goOn(c, time.Hour+time.Minute, time.Minute)
	for _, path := range []string{"config", "status"} {
		shown := m.read(path).Data
		require.Empty(t, shown["pending_error"], path)
		require.Nil(t, shown["next_pending_attempt"], path)
	}
	require.Empty(t, m.read("config").Data["retired_ids"])
	require.Len(t, m.minted(), 1)
}

// TestStatusOfARotationThatFailed shows that an error of the engine's own keeps its HTTP status, whatever is said around it.
func TestStatusOfARotationThatFailed(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.workspace.Inject(simulator.Fault{Path: createPath, Status: 200, Body: `{"token_value":"dapi` + strings.Repeat("0", 32) +
		`","token_info":{"token_id":"` + strings.Repeat("a", 64) + `","creation_time":1772366400000,"expiry_time":-1}}`})
	for path, row := range map[string]struct {
		data map[string]any
		word string
	}{"config/rotate-root": {nil, "make a new credential: "}, "static-roles/x": {map[string]any{"credential_type": "pat"}, "never ends"}} {
		resp, err := m.do(logical.UpdateOperation, path, row.data)
		m.coded(http.StatusBadGateway, resp, err, row.word)
		_, outermost := err.(logical.HTTPCodedError)
		require.True(t, outermost, "or it would be lost on the way to Vault")
	}
}
