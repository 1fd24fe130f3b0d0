// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// connectPrincipal connects the mount with an OAuth secret of a new service principal, who is a workspace admin.
func (m *mount) connectPrincipal(more map[string]any) (engine simulator.Principal, secretID string) {
	m.t.Helper()
	engine = m.workspace.AddServicePrincipal("engine", true)
	secretID, secret := m.workspace.AddOAuthSecret(engine, 0)
	m.canaries.add(secret)
	config := map[string]any{"host": m.workspace.URL(), "client_id": engine.ApplicationID, "client_secret": secret, "max_retries": 0}
	for field, value := range more {
		config[field] = value
	}
	m.write("config", config)
	return engine, secretID
}

// youngTick is what Vault does about once a minute, when every entry of the write-ahead log is too young for the rollback.
func (m *mount) youngTick() {
	m.t.Helper()
	resp, err := m.backend.HandleRequest(m.t.Context(), &logical.Request{Operation: logical.RollbackOperation, Storage: m.storage, Data: map[string]any{}})
	m.requireOK(resp, err)
}

// leaveLifetimes leaves the engine no other lifetimes for the next OAuth secret of the service principal than the given ones. What
// open intents asked for is only learned if it hasn't been told that it has been.
func (m *mount) leaveLifetimes(c *clock, sp simulator.Principal, least time.Duration, learned bool, left ...time.Duration) {
	l := &m.backend.(*backend).lifetimes
	l.learned.Store(learned)
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range int64(maxLifetimeOffset) {
		l.take(c.now(), sp.ID, least+seconds(i))
	}
	for _, lifetime := range left {
		delete(l.used, sp.ID+" "+lifetime.String())
	}
}

// secretIDs are the ids of the live OAuth secrets of the service principal.
func (m *mount) secretIDs(sp simulator.Principal) []string {
	ids := []string{}
	for _, secret := range m.workspace.OAuthSecrets(sp) {
		ids = append(ids, secret.ID)
	}
	return ids
}

// lostCreates are the ways in which a create ends without its reply.
var lostCreates = map[string]simulator.Fault{
	"never arrived": {Method: http.MethodPost, Path: secretsPath + "*", Reset: true, Times: 1},
	"reply lost":    {Method: http.MethodPost, Path: secretsPath + "*", Reset: true, AfterEffect: true, Times: 1},
}

// TestRollbackSparesTheConfigsSecret gives the secret that a rotation makes after a crash the very lifetime of the one whose creation
// was not completed, at about the same time: the rollback removes the one and never the other.
func TestRollbackSparesTheConfigsSecret(t *testing.T) {
	t.Parallel()
	for name, fault := range lostCreates {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			sp, byHand := m.connectPrincipal(map[string]any{"rotation_period": "24h"})
			c.advance(day + time.Minute)
			m.workspace.Inject(fault)
			m.youngTick()
			_, in := m.walIntent()
			lost := seconds(in.Credential.Lifetime)
			require.Positive(t, lost)

			m.restartAt(c)
			c.advance(61 * time.Second)
			m.leaveLifetimes(c, sp, rootLife, true, lost)
			m.youngTick()
			id := m.read("config").Data["credential_id"].(string)
			require.NotEmpty(t, id)
			saved := m.secretIDs(sp)
			require.Contains(t, saved, id)
			for _, secret := range m.workspace.OAuthSecrets(sp) {
				if secret.ID == id {
					require.Equal(t, lost, secret.Expires.Sub(secret.Created), "the very same lifetime")
				}
			}
			m.goOn(c, 10*time.Minute, time.Minute)
			require.Equal(t, []string{byHand, id}, m.secretIDs(sp))
			require.Empty(t, m.walEntries())
			m.restartAt(c)
			m.write("config/rotate-root", nil)
		})
	}
}

// TestRollbackSparesTheSecretOfAStaticRole is the same for a static role, whose create is repeated at once.
func TestRollbackSparesTheSecretOfAStaticRole(t *testing.T) {
	t.Parallel()
	for name, fault := range lostCreates {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, c := newTimedMount(t)
			m.connect(map[string]any{"max_retries": 0})
			sp := m.workspace.AddServicePrincipal("bi", false)
			byHand, _ := m.workspace.AddOAuthSecret(sp, 0)
			role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "72h"}
			m.workspace.Inject(fault)
			m.failure(m.do(logical.UpdateOperation, "static-roles/x", role))
			_, in := m.walIntent()
			lost := seconds(in.Credential.Lifetime)
			m.restartAt(c)
			m.leaveLifetimes(c, sp, 72*time.Hour, true, lost)
			creds := m.write("static-roles/y", role).Data
			id := creds["credential_id"].(string)
			m.rolledBack()
			require.Equal(t, []string{byHand, id}, m.secretIDs(sp))
			require.NotEmpty(t, m.login("/oidc/v1/token", sp.ApplicationID, m.read("static-creds/y").Data["client_secret"].(string)))
		})
	}
}

// TestRollbackOfALeaseSparesWhatIsKept rolls back the create of a leased secret that can't be told, by lifetime and time, from the
// present and the previous secret of a static role.
func TestRollbackOfALeaseSparesWhatIsKept(t *testing.T) {
	t.Parallel()
	for _, arrived := range []bool{false, true} {
		m, c := newTimedMount(t)
		m.connect(map[string]any{"max_retries": 0})
		sp := m.workspace.AddServicePrincipal("bi", false)
		role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "2h", "rotation_grace_period": "1h"}
		m.write("static-roles/x", role)
		m.leaveLifetimes(c, sp, 2*time.Hour, true, m.workspace.OAuthSecrets(sp)[0].Expires.Sub(m.workspace.OAuthSecrets(sp)[0].Created))
		m.write("rotate-role/x", nil)
		kept := m.secretIDs(sp)
		require.Len(t, kept, 2)
		lifetime := m.workspace.OAuthSecrets(sp)[1].Expires.Sub(m.workspace.OAuthSecrets(sp)[1].Created)
		if arrived {
			m.workspace.AddOAuthSecret(sp, lifetime)
		}
		config, err := readConfig(t.Context(), m.storage)
		require.NoError(t, err)
		made := origin{Host: config.Host, WorkspaceID: config.Identity.WorkspaceID, OwnerID: config.Identity.ID}
		_, err = framework.PutWAL(t.Context(), m.storage, walKind, intent{
			origin: made, Nonce: nonce(7), Started: c.now(), Expires: c.now().Add(lifetime + mintBudget),
			Credential: &credentialIntent{Type: credentialOAuthSecret, Role: "job", ServicePrincipalID: sp.ID, Lifetime: int64(lifetime / time.Second)},
		})
		require.NoError(t, err)
		m.rolledBack()
		require.Equal(t, kept, m.secretIDs(sp), "arrived: %t", arrived)
	}
}

// TestLifetimesOfOpenIntentsAreNotGivenOut shows that a new process learns from the write-ahead log which lifetimes another create
// has asked for.
func TestLifetimesOfOpenIntentsAreNotGivenOut(t *testing.T) {
	t.Parallel()
	m, c := newTimedMount(t)
	m.connect(map[string]any{"max_retries": 0})
	sp := m.workspace.AddServicePrincipal("bi", false)
	role := map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "lifetime": "72h"}
	m.workspace.Inject(lostCreates["reply lost"])
	m.failure(m.do(logical.UpdateOperation, "static-roles/x", role))
	_, in := m.walIntent()
	lost := seconds(in.Credential.Lifetime)
	other := 72 * time.Hour
	if lost == other {
		other += time.Second
	}

	m.restartAt(c)
	m.leaveLifetimes(c, sp, 72*time.Hour, false, lost, other)
	m.write("static-roles/x", role)
	secrets := m.workspace.OAuthSecrets(sp)
	require.Len(t, secrets, 2)
	require.Equal(t, lost, secrets[0].Expires.Sub(secrets[0].Created))
	require.Equal(t, other, secrets[1].Expires.Sub(secrets[1].Created))
	m.rolledBack()
	require.Equal(t, []string{secrets[1].ID}, m.secretIDs(sp))
}

// TestWhatIsRecognisedBesidesStaticRoles shows that secrets which a static role has are neither taken for the one that was made by
// hand nor shown as what might be it.
func TestWhatIsRecognisedBesidesStaticRoles(t *testing.T) {
	t.Parallel()
	for _, more := range []int{0, 1} {
		m, _ := newTimedMount(t)
		sp, byHand := m.connectPrincipal(nil)
		var others []string
		for range more {
			id, _ := m.workspace.AddOAuthSecret(sp, 0)
			others = append(others, id)
		}
		static := m.write("static-roles/x", map[string]any{"credential_type": "oauth_secret", "application_id": sp.ApplicationID, "rotation_period": "24h"}).Data["credential_id"].(string)
		resp := m.write("config/rotate-root", nil)
		text := ""
		for _, warning := range resp.Warnings {
			text += warning + "\n"
		}
		require.NotContains(t, text, static)
		require.Contains(t, text, byHand)
		if more == 0 {
			require.Equal(t, []string{byHand}, resp.Data["hand_made_credentials"])
			require.NotContains(t, text, "can't be told")
			continue
		}
		require.Empty(t, resp.Data["hand_made_credentials"])
		require.Contains(t, text, "can't be told")
		for _, id := range others {
			require.Contains(t, text, id)
		}
	}
}
