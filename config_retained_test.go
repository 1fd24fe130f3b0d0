// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// deleteConfig deletes the config, and returns the answer.
func (m *mount) deleteConfig(force bool) *logical.Response {
	m.t.Helper()
	resp, err := m.do(logical.DeleteOperation, "config", map[string]any{"force": force})
	m.requireOK(resp, err)
	return resp
}

// retained is the config that is retained, nil for none.
func (m *mount) retained() *retainedConfig {
	m.t.Helper()
	kept, err := readRetained(m.t.Context(), m.storage.Storage)
	require.NoError(m.t, err)
	return kept
}

// A deleted config is gone for everything but the end of what the mount made.
func TestDeletedConfigEndsLeases(t *testing.T) {
	t.Parallel()
	m := ready(t)
	sp := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/secret", map[string]any{"credential_type": "oauth_secret", "service_principal_id": sp.ID})
	m.write("roles/own", map[string]any{"credential_type": "service_principal"})
	leases := []*logical.Secret{m.mint("etl").Secret, m.mint("secret").Secret, m.mint("own").Secret}
	answer := warnings(m.deleteConfig(false))
	for _, word := range []string{"is retained until", "only to revoke the leases", "vault delete databricks/config force=true"} {
		require.Contains(t, answer, word)
	}

	require.Nil(t, m.absent("config"))
	for path, body := range map[string]map[string]any{
		"config/rotate-root": nil, "secrets/etl/k": {"string_value": "x"}, "static-roles/x": {"credential_type": "pat"}, "tidy": nil, "scopes/new": nil,
	} {
		resp, err := m.do(logical.UpdateOperation, path, body)
		require.Contains(t, m.failure(resp, err).Error(), "no connection yet", path)
	}
	for path, op := range map[string]logical.Operation{"creds/etl": logical.ReadOperation, "scopes/": logical.ListOperation, "tokens/": logical.ListOperation} {
		resp, err := m.do(op, path, nil)
		require.Contains(t, m.failure(resp, err).Error(), "no connection yet", path)
	}
	resp, err := m.leaseRequest(logical.RenewOperation, leases[0])
	m.refused(resp, err, "no connection yet")
	status := m.read("status").Data
	require.Equal(t, false, status["configured"])
	require.Equal(t, m.workspace.URL(), status["retained_host"])
	require.WithinDuration(t, time.Now().Add(retainedLeast+time.Hour), m.moment(status["retained_until_time"]), 2*time.Minute)

	m.workspace.ResetCalls()
	m.end(leases[0])
	require.Len(t, m.workspace.Calls(), 1)
	m.restart()
	m.end(leases[1])
	m.end(leases[2])
	require.Empty(t, m.minted())
	require.Empty(t, m.workspace.OAuthSecrets(sp))
	require.Len(t, m.workspace.ServicePrincipals(), 1)
}

// What failed before the delete is undone after it.
func TestDeletedConfigRollsBack(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.loseReply()
	m.deleteConfig(false)
	m.rolledBack()
	require.Empty(t, m.minted())
	m.system.TaintedVal = true
	m.rolledBack()
}

// The secret of a deleted config never serves a new one that doesn't send it.
func TestDeletedConfigLendsNothingToTheNextOne(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.deleteConfig(false)
	m.workspace.ResetCalls()
	for _, data := range []map[string]any{{"host": m.workspace.URL()}, {"host": m.workspace.URL(), "auth_type": "pat"}, {"max_ttl": "1h"}} {
		resp, err := m.do(logical.UpdateOperation, "config", data)
		require.Contains(t, m.failure(resp, err).Error(), ": ")
	}
	resp, err := m.do(logical.PatchOperation, "config", map[string]any{"max_ttl": "1h"})
	m.coded(http.StatusNotFound, resp, err)
	require.Empty(t, m.workspace.Calls())

	m.connect()
	require.Nil(t, m.retained())
	m.mint("etl")
	require.NotContains(t, m.read("status").Data, "retained_host")
}

// A write of another place says what the deleted config could have revoked.
func TestTheConfigAfterADeletedOneWarns(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.deleteConfig(false)
	other := simulator.New(simulator.WithWorkspaceID("4242"))
	t.Cleanup(other.Close)
	token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
	answer := m.write("config", map[string]any{"host": other.URL(), "token": token})
	require.Contains(t, warnings(answer), "Leases made at "+m.workspace.URL())
	require.Nil(t, m.retained())
}

// What is retained goes when no lease can need it any more, together with the credential that a rotation made, and not soon after a start.
func TestRetainedConfigIsDropped(t *testing.T) {
	t.Parallel()
	eachRootKind(t, func(t *testing.T, kind string) {
		r := newRootMount(t, kind, nil)
		r.rotate()
		r.rotate()
		require.Len(t, r.made(), 2)
		require.Contains(t, warnings(r.deleteConfig(false)), "ends by itself at")
		kept := r.retained()
		r.unlogged(r.secretOf(kept.Config))
		require.Equal(t, []string{kept.Config.Rotation.Credential.ID}, r.made(), "what is in its grace goes at once")
		require.WithinDuration(t, kept.Until.Add(retainedPatience), kept.Config.Rotation.Credential.Expires, time.Hour, "if the mount is disabled, nothing else ends it")

		r.pass(testMaxTTL+2*time.Hour, 10*time.Minute)
		require.NotNil(t, r.retained())
		r.clock.advance(kept.Until.Sub(r.clock.now()) + time.Minute)
		r.restartAt(r.clock)
		r.pass(2*time.Minute, time.Minute)
		require.NotNil(t, r.retained(), "what ended while no engine ran is revoked first")
		outage := r.workspace.Inject(simulator.Fault{Reset: true})
		r.pass(recordGrace, time.Minute)
		require.NotNil(t, r.retained(), "Databricks can't be asked for its time, nor to remove the credential")
		outage.Clear()
		r.pass(2*retainedRetry, 5*time.Minute)
		require.Nil(t, r.retained())
		require.Equal(t, r.byHand, r.live())
		require.Contains(t, r.log.String(), "the retained connection is not dropped yet")

		r.workspace.ResetCalls()
		r.pass(time.Hour, time.Minute)
		require.Empty(t, r.workspace.Calls())
	})
}

// Force drops the connection at once, with what rotations made for it, also after a delete without it.
func TestForcedDeleteRetainsNothing(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]bool{"at once": false, "later": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRootMount(t, "pat", nil)
			r.rotate()
			lease := r.mint("own").Secret
			if before {
				r.deleteConfig(false)
				r.unlogged(r.secretOf(r.retained().Config))
				require.Contains(t, warnings(r.deleteConfig(false)), "is retained until", "a repetition changes nothing")
			}
			answer := warnings(r.deleteConfig(true))
			require.Contains(t, answer, "can no longer be revoked")
			require.NotContains(t, answer, "may be left")
			require.Nil(t, r.retained())
			require.Len(t, r.made(), 1, "the lease's")
			resp, err := r.revoke(lease)
			r.refused(resp, err, "no connection yet")
			require.Empty(t, r.deleteConfig(true).Warnings)
			require.Empty(t, r.deleteConfig(false).Warnings)
		})
	}
}

// A leased secret or permission, and a delivered copy, would stay for ever, so the config stays until they are revoked.
func TestConfigIsNotDeletedWhileLeasesLastForEver(t *testing.T) {
	t.Parallel()
	words := map[string]string{"secrets/etl/k": "1 leased secret. Revoke them first: vault lease revoke -sync -prefix databricks/secrets/",
		"uc-secrets/main/app/k": "1 leased secret in Unity Catalog. Revoke them first: vault lease revoke -sync -prefix databricks/uc-secrets/",
		"acls/etl/users":        "1 leased permission. Revoke them first: vault lease revoke -sync -prefix databricks/acls/",
		"creds/etl":             "1 delivered copy of a credential. Revoke them first: vault lease revoke -sync -prefix databricks/creds/"}
	eachRecorded(t, func(t *testing.T, m *mount, c *clock, kind recorded) {
		lease := kind.lease(m, c)
		m.workspace.ResetCalls()
		resp, err := m.do(logical.DeleteOperation, "config", nil)
		m.refused(resp, err, "force: is missing", words[kind.path])
		require.Empty(t, m.workspace.Calls())
		require.NotNil(t, m.absent("config"))
		require.Nil(t, m.retained())

		m.end(lease)
		m.deleteConfig(false)
		require.False(t, kind.there(m))
	})

	t.Run("by force", func(t *testing.T) {
		t.Parallel()
		m, c := recordMount(t)
		for name, kind := range recordedLeases {
			if name == "delivered copy" {
				kind.data = map[string]any{"deliver_scope": "etl", "deliver_key": "other", "ttl": "1h"}
				kind.there = func(*mount) bool { return true }
			}
			if name == "copy in Unity Catalog" {
				kind.data = map[string]any{"deliver_uc": "main.app.other", "ttl": "1h"}
				kind.there = func(*mount) bool { return true }
			}
			kind.lease(m, c)
		}
		resp, err := m.do(logical.DeleteOperation, "config", nil)
		m.refused(resp, err, "1 leased secret, 1 leased secret in Unity Catalog, 1 leased permission and 2 delivered copies of credentials")
		require.Contains(t, warnings(m.deleteConfig(true)), "What never ends by itself stays at "+m.workspace.URL()+": 1 leased secret, 1 leased secret in Unity Catalog, 1 leased permission and")
	})

	t.Run("those of another workspace don't count", func(t *testing.T) {
		t.Parallel()
		m, c := recordMount(t)
		recordedLeases["secret"].lease(m, c)
		other := simulator.New(simulator.WithWorkspaceID("4242"))
		t.Cleanup(other.Close)
		token, _ := other.AddToken(other.AddUser("engine@example.com", true), "", 0)
		answer := warnings(m.write("config", map[string]any{"host": other.URL(), "token": token}))
		require.Contains(t, answer, "What has no expiry stays: 1 leased secret. To remove that, write the config of before again, then: vault lease revoke -sync -prefix databricks/secrets/")
		m.deleteConfig(false)
	})
}

// Whatever fails in a delete, and wherever it is interrupted, the lease can be revoked, and a delete by force leaves nothing.
func TestDeletingTheConfigWalk(t *testing.T) {
	skipLong(t)
	t.Parallel()
	for _, kind := range []string{"pat", "oauth-m2m"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			begin := func(t *testing.T) (*rootMount, *logical.Secret) {
				r := newRootMount(t, kind, nil)
				r.workspace.AddScope("etl", r.admin)
				r.rotate()
				r.rotate()
				r.write("roles/etl", map[string]any{"credential_type": "service_principal", "ttl": "1h", "max_ttl": "2h"})
				lease := r.mint("etl").Secret
				r.workspace.ResetCalls()
				return r, lease
			}
			model, _ := begin(t)
			steps := model.record(func() { _, _ = model.do(logical.DeleteOperation, "config", nil) })
			table := steps.faults()
			require.Greater(t, len(table), 30)
			for _, fault := range table {
				t.Run(fault.name, func(t *testing.T) {
					r, lease := begin(t)
					r.suffer(fault, func() { _, _ = r.do(logical.DeleteOperation, "config", nil) })
					config, err := readConfig(t.Context(), r.storage.Storage)
					require.NoError(t, err)
					kept := r.retained()
					require.True(t, config != nil || kept != nil)
					if config != nil {
						require.True(t, r.works(r.secretOf(config)), "the old state goes on")
						if kept != nil {
							r.pass(2*time.Minute, time.Minute)
							require.Nil(t, r.retained())
							r.unlogged(r.secretOf(config))
							require.True(t, r.works(r.secretOf(r.stored())))
						}
					} else {
						r.unlogged(r.secretOf(kept.Config))
						require.True(t, r.works(r.secretOf(kept.Config)))
					}
					r.pass(6*time.Minute, time.Minute)
					if kept := r.retained(); kept != nil {
						r.unlogged(r.secretOf(kept.Config))
					}
					r.end(lease)
					require.Empty(t, r.walEntries())
					r.deleteConfig(true)
					require.Nil(t, r.retained())
					require.Empty(t, r.made())
					require.Subset(t, r.live(), r.byHand)
				})
			}
		})
	}
}

// A write of the config that is interrupted before it has dropped what is retained drops it later, and nothing that the new one needs.
func TestRetainedConfigBesideANewOneIsDropped(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	r.deleteConfig(false)
	r.unlogged(r.secretOf(r.retained().Config))
	byHand := r.addByHand("by hand again")
	r.storage.onEach(func(op, key string) error {
		if op == "delete" && key == retainedStorageKey {
			return errors.New("disk full")
		}
		return nil
	})
	r.write("config", map[string]any{"host": r.workspace.URL(), "token": byHand})
	require.NotNil(t, r.retained())
	r.storage.onEach(nil)
	r.pass(2*time.Minute, time.Minute)
	require.Nil(t, r.retained())
	r.sound()
}

// An entry that can't be read holds nothing up, and goes with the next config or a delete by force.
func TestUnreadableRetainedConfig(t *testing.T) {
	t.Parallel()
	for name, drop := range map[string]func(m *mount){
		"delete by force": func(m *mount) { require.Contains(t, warnings(m.deleteConfig(true)), "could not be read") },
		"next config":     func(m *mount) { require.Contains(t, warnings(m.connect()), "could not be read") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := ready(t)
			lease := m.mint("etl").Secret
			m.deleteConfig(false)
			require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: retainedStorageKey, Value: []byte("garbage")}))
			m.backend.InvalidateKey(t.Context(), retainedStorageKey)
			_, err := m.revoke(lease)
			require.ErrorContains(t, err, "the retained config cannot be read")
			for range 3 {
				m.idleTick()
			}
			require.Equal(t, 1, strings.Count(m.log.String(), "a deleted config can't be used to revoke leases"))
			drop(m)
			keys, err := m.storage.List(t.Context(), configStoragePrefix)
			require.NoError(t, err)
			require.False(t, slices.Contains(keys, "retained"))
		})
	}
}

// A periodic call that began before the delete doesn't take what is retained for the rest of a crash.
func TestAPeriodicCallDuringTheDeleteDropsNothing(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	r.write("roles/sp", map[string]any{"credential_type": "service_principal"})
	lease := r.mint("sp").Secret
	deleted := false
	r.storage.onEach(func(op, key string) error {
		// The static roles are listed before the config and what is retained are read.
		if op == "list" && key == staticStoragePrefix && !deleted {
			deleted = true
			r.deleteConfig(false)
			r.unlogged(r.secretOf(r.retained().Config))
		}
		return nil
	})
	r.backend.(*backend).nextRun.touch()
	r.tick()
	require.True(t, deleted)
	r.storage.onEach(nil)
	require.NotNil(t, r.retained())
	r.end(lease)
	require.Len(t, r.workspace.ServicePrincipals(), 0)
}

// A connection that is retained while its credential ends earlier says so.
func TestRetainedConfigWhoseCredentialEndsEarlier(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	token, _ := m.workspace.AddToken(m.admin, "short", time.Hour)
	m.canaries.add(token)
	m.write("config", map[string]any{"host": m.workspace.URL(), "token": token})
	require.Contains(t, warnings(m.deleteConfig(false)), "the credential that it connects with ends at 2026-03-01T13:00:00Z: revoke the leases before")
}

// A maximum that was lowered since a lease was made does not shorten the retention below that lease.
func TestRetentionOutlastsALoweredMaximum(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect()
	m.write("roles/sp", map[string]any{"credential_type": "service_principal", "ttl": "4h", "max_ttl": "4h"})
	lease := m.mint("sp").Secret
	m.system.MaxLeaseTTLVal = time.Hour
	m.deleteConfig(false)
	for range 200 {
		c.advance(time.Minute)
		_, _ = m.rollback()
	}
	m.end(lease)
	require.Empty(t, m.workspace.ServicePrincipals())
}

// What is retained can't be read: status says so, nothing else fails for it, and a new config replaces it.
func TestRetainedConfigThatCantBeRead(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.deleteConfig(false)
	require.NoError(t, m.storage.Put(t.Context(), &logical.StorageEntry{Key: retainedStorageKey, Value: []byte("garbage")}))
	m.backend.InvalidateKey(t.Context(), retainedStorageKey)
	status := m.read("status").Data
	require.Contains(t, status["retained_error"], "cannot be read")
	require.NotContains(t, status, "retained_host")
	m.connect()
	_, _ = m.rollback()
	require.Nil(t, m.retained())
}

// A clock that is ahead ends neither a lease of a deleted config nor the retention.
func TestRetainedConfigAndAClockThatIsAhead(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	r.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	minted := r.mint("etl")
	r.deleteConfig(false)
	r.unlogged(r.secretOf(r.retained().Config))
	ahead := func(by time.Duration) {
		r.backend.(*backend).clock = func() time.Time { return r.clock.now().Add(by) }
	}
	ahead(40 * day)
	for range 3 {
		_, _ = r.rollback()
	}
	require.NotNil(t, r.retained())
	ahead(2 * time.Hour)
	_, err := r.revoke(minted.Secret)
	require.NoError(t, err)
	require.NotEqual(t, http.StatusOK, r.whoami(minted.Data["token_value"].(string)), "it was revoked, and not taken for ended")
}

// A write of a config while a delete is replacing the credential leaves none of both.
func TestAWriteDuringTheDeleteLeavesNoCredential(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	byHand := r.addByHand("new by hand")
	creating, removing := make(chan struct{}), make(chan struct{})
	create := r.workspace.Inject(simulator.Fault{Path: createPath, Hold: creating, Times: 1})
	remove := r.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/delete", Hold: removing, Times: 1})
	request := func(op logical.Operation, data map[string]any) chan error {
		done := make(chan error, 1)
		go func() {
			resp, err := r.backend.HandleRequest(t.Context(), &logical.Request{Operation: op, Path: "config", Storage: r.storage, MountPoint: "databricks/", Data: data})
			if err == nil {
				err = resp.Error()
			}
			done <- err
		}()
		return done
	}
	deleted := request(logical.DeleteOperation, nil)
	require.Eventually(t, func() bool { return create.Hits() == 1 }, 10*time.Second, time.Millisecond)
	written := request(logical.CreateOperation, map[string]any{"host": r.workspace.URL(), "token": byHand})
	require.Eventually(t, func() bool { return remove.Hits() == 1 }, 10*time.Second, time.Millisecond)
	close(creating)
	require.NoError(t, <-deleted)
	close(removing)
	require.NoError(t, <-written)
	require.Nil(t, r.retained())
	r.pass(time.Hour, time.Minute)
	require.Empty(t, r.made())
}

// A static role that was stored while the config was deleted can be deleted, with what it made.
func TestStaticRoleOfADeletedConfigIsDeleted(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	deleted := false
	m.storage.onEach(func(op, key string) error {
		if op != "put" || key != staticStoragePrefix+"x" || deleted {
			return nil
		}
		deleted = true
		done := make(chan error)
		go func() { // a request of its own, which holds none of the other's locks
			_, err := m.backend.HandleRequest(t.Context(), &logical.Request{Operation: logical.DeleteOperation, Path: "config", Storage: m.storage, MountPoint: "databricks/"})
			done <- err
		}()
		return <-done
	})
	m.write("static-roles/x", map[string]any{"credential_type": "pat"})
	require.True(t, deleted)
	m.storage.onEach(nil)
	m.gone("static-roles/x")
	require.Empty(t, m.minted())
}

// A config whose workspace isn't known is not deleted while anything is leased: it may be another name of the same one.
func TestConfigOfAnUnknownWorkspaceIsNotDeletedWhileASecretIsLeased(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	m.connect()
	m.workspace.AddScope("etl", m.admin)
	m.write("secrets/etl/k", map[string]any{"string_value": "a leased value", "ttl": "1h"})
	m.write("config", map[string]any{"host": strings.Replace(m.workspace.URL(), "127.0.0.1", "localhost", 1), "token": m.token, "verify_connection": false})
	resp, err := m.do(logical.DeleteOperation, "config", nil)
	m.refused(resp, err, "force: is missing", "1 leased secret")
}

// A config that leads elsewhere removes what rotations made for the one of before, while that can still be done.
func TestAMovedConfigLeavesNoRootCredential(t *testing.T) {
	t.Parallel()
	r := newRootMount(t, "pat", nil)
	r.rotate()
	r.rotate()
	require.Len(t, r.made(), 2)
	r.elsewhere()
	require.Empty(t, r.made())
	require.Empty(t, r.read("config").Data["retired_ids"])
}

// A config whose identity becomes an admin's names the roles that give such rights from now on.
func TestAConfigThatBecomesAnAdminsWarnsOfItsRoles(t *testing.T) {
	t.Parallel()
	m, _ := newTimedMount(t)
	modest, _ := m.workspace.AddToken(m.workspace.AddUser("modest@example.com", false), "", 0)
	m.canaries.add(modest)
	m.connect(map[string]any{"token": modest})
	m.workspace.AddDatabaseInstance("orders", "instance-orders.example.com")
	job := m.workspace.AddServicePrincipal("job", false)
	m.write("roles/db", map[string]any{"credential_type": "database_credential", "database_instances": "orders"})
	m.write("roles/named", map[string]any{"credential_type": "database_credential", "database_instances": "orders", "application_id": job.ApplicationID})
	m.write("roles/own", map[string]any{"credential_type": "pat"})
	m.write("static-roles/own", map[string]any{"credential_type": "pat"})
	require.NotContains(t, warnings(m.write("config", map[string]any{"ttl": "10m"})), "workspace admin")
	answer := warnings(m.write("config", map[string]any{"token": m.token}))
	require.Contains(t, answer, "these roles give an admin's rights or logins: roles/db, roles/own, static-roles/own.")
	require.NotContains(t, warnings(m.write("config", map[string]any{"ttl": "11m"})), "these roles", "once is enough")
}
