// SPDX-License-Identifier: MPL-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// patience is how long a test waits for something that Vault does in its own time.
const patience = 60 * time.Second

// data is the body of a write.
type data = map[string]any

// mount is one mount of the plugin with a simulated workspace of its own behind it.
type mount struct {
	t         *testing.T
	server    *vaultServer
	path      string // without slashes
	client    *api.Client
	workspace *simulator.Workspace
	admin     simulator.Principal
	token     string // a token of admin, made by hand
	tokenID   string
}

var notInPaths = regexp.MustCompile(`[^a-z0-9]+`)

// newMount enables the plugin on a path named after the test. The mount is not configured.
func newMount(t *testing.T) *mount {
	t.Helper()
	return newMountOf(t, pluginName)
}

func newMountOf(t *testing.T, plugin string, opts ...simulator.Option) *mount {
	t.Helper()
	return newMountOn(t, server, plugin, opts...)
}

func newMountOn(t *testing.T, server *vaultServer, plugin string, opts ...simulator.Option) *mount {
	t.Helper()
	client, err := server.client(server.rootToken)
	require.NoError(t, err)
	m := &mount{
		t:         t,
		server:    server,
		path:      strings.Trim(notInPaths.ReplaceAllString(strings.ToLower(t.Name()), "-"), "-"),
		client:    client,
		workspace: simulator.New(opts...),
	}
	t.Cleanup(m.workspace.Close)
	m.admin = m.workspace.AddUser("engine@example.com", true)
	m.token, m.tokenID = m.workspace.AddToken(m.admin, "made by hand", 0)
	server.secret(m.token, "the configured token of "+t.Name())

	require.NoError(t, client.Sys().Mount(m.path, &api.MountInput{Type: plugin}))
	t.Cleanup(func() {
		m.workspace.ClearFaults()
		require.NoError(t, client.Sys().Unmount(m.path))
	})
	return m
}

// newConfiguredMount is newMount with a `pat` connection to its workspace and a role named etl: ttl 1 h, max_ttl 2 h.
func newConfiguredMount(t *testing.T) *mount {
	t.Helper()
	m := newMount(t)
	m.configure()
	return m
}

func (m *mount) configure() {
	m.t.Helper()
	m.write("config", data{"host": m.workspace.URL(), "token": m.token})
	m.write("roles/etl", data{"credential_type": "pat", "ttl": "1h", "max_ttl": "2h"})
}

// write writes below the mount and returns the answer, which may be nil.
func (m *mount) write(path string, body data) *api.Secret {
	m.t.Helper()
	secret, err := m.client.Logical().Write(m.path+"/"+path, body)
	require.NoError(m.t, err)
	return secret
}

func (m *mount) patch(path string, body data) *api.Secret {
	m.t.Helper()
	secret, err := m.client.Logical().JSONMergePatch(context.Background(), m.path+"/"+path, body)
	require.NoError(m.t, err)
	return secret
}

// read reads what must be there.
func (m *mount) read(path string) map[string]any {
	m.t.Helper()
	secret, err := m.client.Logical().Read(m.path + "/" + path)
	require.NoError(m.t, err)
	require.NotNil(m.t, secret, "%s is absent", path)
	return secret.Data
}

// requireAbsent reads what must not be there.
func (m *mount) requireAbsent(path string) {
	m.t.Helper()
	secret, err := m.client.Logical().Read(m.path + "/" + path)
	require.NoError(m.t, err)
	require.Nil(m.t, secret, "%s exists", path)
}

// keys lists a path; nil when Vault answers that there is nothing.
func (m *mount) keys(path string) []string {
	m.t.Helper()
	secret, err := m.client.Logical().List(m.path + "/" + path)
	require.NoError(m.t, err)
	if secret == nil {
		return nil
	}
	var keys []string
	for _, key := range secret.Data["keys"].([]any) {
		keys = append(keys, key.(string))
	}
	return keys
}

// mint reads creds/<role>.
func (m *mount) mint(role string) *api.Secret {
	m.t.Helper()
	secret, err := m.tryMint(role, nil)
	require.NoError(m.t, err)
	return secret
}

// tryMint mints by a read, or by a write when a body is given, and notes the secret as one that the log must not hold. It may be called from any goroutine.
func (m *mount) tryMint(role string, body data) (secret *api.Secret, err error) {
	path := m.path + "/creds/" + role
	if body == nil {
		secret, err = m.client.Logical().Read(path)
	} else {
		secret, err = m.client.Logical().Write(path, body)
	}
	if err != nil {
		return nil, err
	}
	if secret == nil {
		return nil, fmt.Errorf("%s answered nothing", path)
	}
	if value := secretPartOf(secret); value != "" {
		m.server.secret(value, "a credential minted by "+m.t.Name())
	}
	return secret, nil
}

func (m *mount) revoke(secret *api.Secret) {
	m.t.Helper()
	require.NoError(m.t, m.client.Sys().RevokeWithOptions(&api.RevokeOptions{LeaseID: secret.LeaseID, Sync: true}))
}

// secretPartOf is the secret of a minted credential, of whatever type; "" where it was delivered.
func secretPartOf(secret *api.Secret) string {
	for _, field := range []string{"token_value", "client_secret", "access_token"} {
		if value, ok := secret.Data[field].(string); ok {
			return value
		}
	}
	return ""
}

func tokenOf(secret *api.Secret) string   { return secret.Data["token_value"].(string) }
func tokenIDOf(secret *api.Secret) string { return secret.Data["token_id"].(string) }

// works tells whether a token authenticates at the workspace, as any client would see it.
func (m *mount) works(token string) bool {
	request, err := http.NewRequest(http.MethodGet, m.workspace.URL()+"/api/2.0/preview/scim/v2/Me", nil)
	if err != nil {
		return false
	}
	request.Header.Set("Authorization", "Bearer "+token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// upstream finds a live token of the workspace by its id.
func (m *mount) upstream(id string) (simulator.Token, bool) {
	for _, token := range m.workspace.Tokens() {
		if token.ID == id {
			return token, true
		}
	}
	return simulator.Token{}, false
}

// minted is every live token of the workspace but the one made by hand.
func (m *mount) minted() []simulator.Token {
	var tokens []simulator.Token
	for _, token := range m.workspace.Tokens() {
		if token.ID != m.tokenID {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// requireRefused asserts the HTTP status of an error and that its text holds every given part.
func requireRefused(t *testing.T, err error, status int, parts ...string) {
	t.Helper()
	require.Error(t, err)
	var refused *api.ResponseError
	require.True(t, errors.As(err, &refused), "not an answer of Vault: %v", err)
	require.Equal(t, status, refused.StatusCode, "%v", err)
	for _, part := range parts {
		require.Contains(t, strings.Join(refused.Errors, "\n"), part)
	}
}

// seconds reads a duration of an answer, which is an integer of seconds.
func seconds(t *testing.T, value any) time.Duration {
	t.Helper()
	number, ok := value.(interface{ Int64() (int64, error) })
	require.True(t, ok, "%v (%T) is not a number", value, value)
	n, err := number.Int64()
	require.NoError(t, err)
	return time.Duration(n) * time.Second
}

// timeOf reads a time of an answer: RFC 3339 in UTC.
func timeOf(t *testing.T, value any) time.Time {
	t.Helper()
	text, ok := value.(string)
	require.True(t, ok, "%v (%T) is not a text", value, value)
	parsed, err := time.Parse(time.RFC3339, text)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(text, "Z"), "%q is not in UTC", text)
	return parsed
}

// configureAs connects the mount as another identity of its workspace, for what a workspace admin is never refused.
func (m *mount) configureAs(p simulator.Principal) {
	m.t.Helper()
	token, _ := m.workspace.AddToken(p, "made by hand", 0)
	server.secret(token, "the configured token of "+m.t.Name())
	m.write("config", data{"host": m.workspace.URL(), "token": token})
}

// tryWrite writes below the mount. It may be called from any goroutine.
func (m *mount) tryWrite(path string, body data) (*api.Secret, error) {
	return m.client.Logical().Write(m.path+"/"+path, body)
}

func (m *mount) delete(path string) {
	m.t.Helper()
	_, err := m.client.Logical().Delete(m.path + "/" + path)
	require.NoError(m.t, err)
}

// details lists a path with what is known of each key.
func (m *mount) details(path string) map[string]any {
	m.t.Helper()
	secret, err := m.client.Logical().List(m.path + "/" + path)
	require.NoError(m.t, err)
	require.NotNil(m.t, secret, "%s lists nothing", path)
	infos, ok := secret.Data["key_info"].(map[string]any)
	require.True(m.t, ok, "%s has no key_info: %v", path, secret.Data)
	return infos
}

// scope is a scope of the workspace as it is stored there; the zero value if there is none.
func (m *mount) scope(name string) simulator.Scope {
	for _, scope := range m.workspace.Scopes() {
		if scope.Name == name {
			return scope
		}
	}
	return simulator.Scope{}
}

// value is a stored secret's value, and whether there is one.
func (m *mount) value(scope, key string) (string, bool) {
	secret, ok := m.scope(scope).Secrets[key]
	return string(secret.Value), ok
}

// permission is a principal's own permission on a scope, "" for none.
func (m *mount) permission(scope, principal string) string {
	return m.scope(scope).ACLs[principal]
}
