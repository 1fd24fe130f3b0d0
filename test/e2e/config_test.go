// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestConfigIsAbsentUntilWritten(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.requireAbsent("config")
	m.requireAbsent("roles/etl")
	require.Empty(t, m.keys("roles"))

	// A role may be written first; it can mint nothing yet, and the answer says what is missing.
	m.write("roles/etl", data{"credential_type": "pat"})
	_, err := m.tryMint("etl", nil)
	requireRefused(t, err, 400, "config")
}

func TestConfigReadShowsNoSecret(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	config := m.read("config")
	require.Equal(t, m.workspace.URL(), config["host"])
	require.Equal(t, "pat", config["auth_type"], "inferred, since only one fits")
	require.NotContains(t, fmt.Sprint(config), m.token)
	require.NotContains(t, config, "token")
	require.NotContains(t, config, "client_secret")
}

func TestConfigOfBadInputIsRefusedAndNothingIsStored(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	url := m.workspace.URL()
	for name, tt := range map[string]struct {
		body  data
		field string
	}{
		"no host":                {data{"token": m.token}, "host"},
		"host with a path":       {data{"host": url + "/api/2.0", "token": m.token}, "host"},
		"host with a query":      {data{"host": url + "/?o=1", "token": m.token}, "host"},
		"host with a user":       {data{"host": "https://me:pw@dbc-1.cloud.databricks.com", "token": m.token}, "host"},
		"plain http":             {data{"host": "http://dbc-1.cloud.databricks.com", "token": m.token}, "host"},
		"no token":               {data{"host": url, "auth_type": "pat"}, "token"},
		"no credential":          {data{"host": url}, "auth_type"},
		"no client secret":       {data{"host": url, "auth_type": "oauth-m2m", "client_id": "x"}, "client_secret"},
		"unknown auth type":      {data{"host": url, "token": m.token, "auth_type": "basic"}, "auth_type"},
		"bad CA":                 {data{"host": url, "token": m.token, "ca_cert": "not PEM"}, "ca_cert"},
		"ttl above max_ttl":      {data{"host": url, "token": m.token, "ttl": "2h", "max_ttl": "1h"}, "ttl"},
		"negative max_retries":   {data{"host": url, "token": m.token, "max_retries": -1}, "max_retries"},
		"negative rate limit":    {data{"host": url, "token": m.token, "rate_limit": -1}, "rate_limit"},
		"time that is no time":   {data{"host": url, "token": m.token, "request_timeout": "soon"}, "request_timeout"},
		"negative request time":  {data{"host": url, "token": m.token, "request_timeout": "-5s"}, "request_timeout"},
		"boolean that is no one": {data{"host": url, "token": m.token, "verify_connection": "perhaps"}, "verify_connection"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := m.client.Logical().Write(m.path+"/config", tt.body)
			requireRefused(t, err, 400, tt.field)
			require.NotContains(t, err.Error(), m.token)
		})
	}
	m.requireAbsent("config")
	require.Zero(t, m.workspace.Count("", "*"), "nothing was asked of Databricks")
}

func TestWrongTokenIsRefusedAndTheOldConfigGoesOnWorking(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	wrong := server.secret("dapi00000000000000000000000000000000", "a wrong token")
	_, err := m.client.Logical().Write(m.path+"/config", data{"token": wrong})
	requireRefused(t, err, 400, "token")
	require.NotContains(t, err.Error(), wrong)
	require.True(t, m.works(tokenOf(m.mint("etl"))))
}

func TestPartialWriteKeepsTheOtherFields(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.write("config", data{"max_ttl": "24h", "max_retries": 1})
	m.write("config", data{"ttl": "1h"})
	config := m.read("config")
	require.Equal(t, m.workspace.URL(), config["host"])
	require.EqualValues(t, "86400", fmt.Sprint(config["max_ttl"]))
	require.EqualValues(t, "3600", fmt.Sprint(config["ttl"]))
	require.EqualValues(t, "1", fmt.Sprint(config["max_retries"]))
	require.True(t, m.works(tokenOf(m.mint("etl"))), "the token was kept")
}

func TestPatchChangesOneFieldOfConfigAndRole(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	m.patch("config", data{"max_ttl": "24h"})
	require.EqualValues(t, "86400", fmt.Sprint(m.read("config")["max_ttl"]))
	require.Equal(t, m.workspace.URL(), m.read("config")["host"])

	m.patch("roles/etl", data{"ttl": "30m"})
	role := m.read("roles/etl")
	require.EqualValues(t, "1800", fmt.Sprint(role["ttl"]))
	require.EqualValues(t, "7200", fmt.Sprint(role["max_ttl"]))
	require.Equal(t, "pat", role["credential_type"])
	require.Equal(t, 1800, m.mint("etl").LeaseDuration)
}

func TestHostCannotChangeWithoutTheSecret(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	other := simulator.New()
	t.Cleanup(other.Close)

	_, err := m.client.Logical().Write(m.path+"/config", data{"host": other.URL()})
	requireRefused(t, err, 400, "host", "token")
	require.Empty(t, other.Calls(), "the old token was not shown to the new host")
	require.Equal(t, m.workspace.URL(), m.read("config")["host"])

	token, _ := other.AddToken(other.AddUser("engine@example.com", true), "made by hand", 0)
	server.secret(token, "the configured token of the second workspace")
	m.write("config", data{"host": other.URL(), "token": token})
	secret := m.mint("etl")
	require.Equal(t, other.URL(), secret.Data["host"])
	require.Empty(t, m.minted(), "the old workspace was left alone")

	// The second workspace goes away before the mount does.
	m.revoke(secret)
}

func TestVerifyConnectionFalseAllowsBootstrapWhileDatabricksIsAway(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	m.workspace.Inject(simulator.Fault{Path: "*", Close: true})
	body := data{"host": m.workspace.URL(), "token": m.token, "max_retries": 0}
	_, err := m.client.Logical().Write(m.path+"/config", body)
	requireRefused(t, err, 502)
	m.requireAbsent("config")

	body["verify_connection"] = false
	m.write("config", body)
	m.write("roles/etl", data{"credential_type": "pat"})
	_, err = m.tryMint("etl", nil)
	requireRefused(t, err, 502)

	m.workspace.ClearFaults()
	require.True(t, m.works(tokenOf(m.mint("etl"))))
}

func TestOAuthConnectionMintsAndFetchesOneTokenHoweverManyWait(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	principal := m.workspace.AddServicePrincipal("engine", true)
	_, secret := m.workspace.AddOAuthSecret(principal, 0)
	server.secret(secret, "the configured client secret of "+t.Name())
	// The connection is not verified, and the role is written before, so that the client is cold when the requests come.
	m.write("roles/etl", data{"credential_type": "pat"})
	m.write("config", data{"host": m.workspace.URL(), "client_id": principal.ApplicationID, "client_secret": secret, "verify_connection": false})
	require.Equal(t, "oauth-m2m", m.read("config")["auth_type"])
	require.Equal(t, principal.ApplicationID, m.read("config")["client_id"])

	m.workspace.ResetCalls()
	var group errgroup.Group
	for range 200 {
		group.Go(func() error {
			_, err := m.tryMint("etl", nil)
			return err
		})
	}
	require.NoError(t, group.Wait())
	require.Equal(t, 1, m.workspace.Count("POST", "/oidc/v1/token"))
	require.Equal(t, 200, m.workspace.Count("POST", "/api/2.0/token/create"))
	require.Len(t, m.minted(), 200)
	for _, token := range m.minted() {
		require.Equal(t, principal.ID, token.Owner)
	}
}

func TestWrongClientSecretIsRefused(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	principal := m.workspace.AddServicePrincipal("engine", true)
	wrong := server.secret("dosenotthesecretofthisprincipal", "a wrong client secret")
	_, err := m.client.Logical().Write(m.path+"/config", data{"host": m.workspace.URL(), "client_id": principal.ApplicationID, "client_secret": wrong})
	requireRefused(t, err, 400, "client_secret")
	require.NotContains(t, err.Error(), wrong)
	m.requireAbsent("config")
}

func TestPrivateCAIsTrustedOnlyWhenConfigured(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	private := simulator.New(simulator.WithTLS())
	t.Cleanup(private.Close)
	token, _ := private.AddToken(private.AddUser("engine@example.com", true), "made by hand", 0)
	server.secret(token, "the configured token of the private workspace")

	_, err := m.client.Logical().Write(m.path+"/config", data{"host": private.URL(), "token": token, "max_retries": 0})
	requireRefused(t, err, 502, "ca_cert")
	m.write("config", data{"host": private.URL(), "token": token, "ca_cert": private.CACert()})
	require.Equal(t, private.CACert(), m.read("config")["ca_cert"])
	m.write("roles/etl", data{"credential_type": "pat"})
	m.revoke(m.mint("etl"))
}

func TestDeletedConfigIsGone(t *testing.T) {
	t.Parallel()
	m := newConfiguredMount(t)
	secret := m.mint("etl")
	_, err := m.client.Logical().Delete(m.path + "/config")
	require.NoError(t, err)
	m.requireAbsent("config")
	_, err = m.tryMint("etl", nil)
	requireRefused(t, err, 400, "config")

	// Without a connection a lease can't be revoked, and it must not be said that it was.
	m.deleteConfigByForce()
	err = m.client.Sys().RevokeWithOptions(revokeNow(secret))
	require.Error(t, err)
	require.True(t, m.works(tokenOf(secret)))
	m.write("config", data{"host": m.workspace.URL(), "token": m.token})
	require.NoError(t, m.client.Sys().RevokeWithOptions(revokeNow(secret)))
	require.False(t, m.works(tokenOf(secret)))
}
