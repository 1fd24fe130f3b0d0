// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/credential"
	"vault-plugin-secrets-databricks/internal/simulator"
)

func TestFactory(t *testing.T) {
	t.Parallel()

	_, err := Factory(context.Background(), nil)
	require.Error(t, err)

	// Vault refuses writes while it sets up mounts.
	m := bareMount(t)
	m.storage.onEach(func(op, key string) error {
		t.Errorf("%s %s while the mount is set up", op, key)
		return nil
	})
	conf := m.config()
	conf.StorageView = m.storage
	b, err := Factory(context.Background(), conf)
	require.NoError(t, err)
	require.NoError(t, b.Initialize(context.Background(), &logical.InitializationRequest{Storage: m.storage}))
	require.Equal(t, logical.TypeLogical, b.Type())
	require.Equal(t, Version, b.(*backend).PluginVersion().Version)
	b.Cleanup(context.Background())

	// A mount whose host tells no id is still told from others' by a constant.
	conf.BackendUUID = ""
	b, err = Factory(context.Background(), conf)
	require.NoError(t, err)
	require.Equal(t, "unnamed", b.(*backend).mountID)
}

func TestSpecialPaths(t *testing.T) {
	t.Parallel()
	paths := newMount(t).backend.SpecialPaths()
	require.Empty(t, paths.Unauthenticated)
	require.Equal(t, []string{"config/", "static/"}, paths.SealWrapStorage)
	require.True(t, strings.HasPrefix(configStorageKey, paths.SealWrapStorage[0]))
	require.Equal(t, []string{"wal/"}, paths.LocalStorage)
}

func TestEveryPathIsDocumented(t *testing.T) {
	t.Parallel()
	m := newMount(t)
	resp, err := m.do(logical.HelpOperation, "", nil)
	m.requireOK(resp, err)
	require.Contains(t, resp.Data["help"], "short-lived Databricks credentials")
	for _, path := range m.routes.Paths {
		require.NotEmpty(t, path.HelpSynopsis, path.Pattern)
		require.Contains(t, path.HelpDescription, "vault ", "%s has an example", path.Pattern)
		for name, field := range path.Fields {
			require.NotEmpty(t, field.Description, "%s of %s", name, path.Pattern)
		}
		for op, operation := range path.Operations {
			properties := operation.Properties()
			require.NotEmpty(t, properties.Summary, "%s of %s", op, path.Pattern)
			require.NotEmpty(t, properties.Responses[http.StatusOK], "%s of %s", op, path.Pattern)
			switch op {
			case logical.CreateOperation, logical.UpdateOperation, logical.PatchOperation, logical.DeleteOperation:
				require.True(t, properties.ForwardPerformanceStandby, "%s of %s", op, path.Pattern)
			}
		}
	}
}

func TestAPanicEndsOneRequest(t *testing.T) {
	t.Parallel()
	m := bareMount(t)
	b := newBackend(testMountID)
	boom := func(value any) *framework.PathOperation {
		return &framework.PathOperation{Callback: func(context.Context, *logical.Request, *framework.FieldData) (*logical.Response, error) {
			if value == nil {
				var nothing *roleEntry
				value = nothing.TTL
			}
			panic(value)
		}}
	}
	b.Paths = append(b.Paths,
		&framework.Path{Pattern: "nil", Operations: map[logical.Operation]framework.OperationHandler{logical.ReadOperation: boom(nil)}},
		&framework.Path{Pattern: "secret", Operations: map[logical.Operation]framework.OperationHandler{logical.ReadOperation: boom("dapi-in-a-panic")}},
		&framework.Path{Pattern: "check", ExistenceCheck: func(context.Context, *logical.Request, *framework.FieldData) (bool, error) {
			panic("dapi-in-a-panic")
		}, Operations: map[logical.Operation]framework.OperationHandler{logical.CreateOperation: boom("")}},
	)
	require.NoError(t, b.Setup(context.Background(), m.config()))
	m.backend = b

	for _, path := range []string{"nil", "secret"} {
		resp, err := m.do(logical.ReadOperation, path, nil)
		m.coded(http.StatusInternalServerError, resp, err, "Vault's log")
	}
	_, _, err := b.HandleExistenceCheck(context.Background(), &logical.Request{Operation: logical.CreateOperation, Path: "check", Storage: m.storage})
	m.coded(http.StatusInternalServerError, nil, err)
	require.Contains(t, m.log.String(), "nil pointer dereference")
	require.NotContains(t, m.log.String(), "dapi-in-a-panic")

	m.connect()
	require.NotNil(t, m.read("status"), "the mount goes on")
}

func TestInvalidate(t *testing.T) {
	t.Parallel()
	m := ready(t)
	m.mint("etl")

	// Another node writes role and config; this one is told which entries changed.
	other := &mount{t: t, routes: m.routes, storage: m.storage, system: m.system, events: m.events, log: m.log, workspace: m.workspace, token: m.token}
	b, err := Factory(context.Background(), other.config())
	require.NoError(t, err)
	other.backend = b
	second := m.workspace.AddUser("second@example.com", false)
	secondToken, _ := m.workspace.AddToken(second, "the engine's own", 0)
	other.write("config", map[string]any{"token": secondToken})
	other.write("roles/etl", map[string]any{"ttl": "20m"})

	require.EqualValues(t, 600, m.read("roles/etl").Data["ttl"], "not told yet")
	m.backend.InvalidateKey(context.Background(), "role/etl")
	m.backend.InvalidateKey(context.Background(), configStorageKey)
	m.backend.InvalidateKey(context.Background(), "something/else")
	require.EqualValues(t, 1200, m.read("roles/etl").Data["ttl"])
	require.Equal(t, "second@example.com", m.read("status").Data["identity"].(map[string]any)["user_name"])
	require.EqualValues(t, 1200, m.mint("etl").Secret.TTL/time.Second)
}

func TestWritesAreForwarded(t *testing.T) {
	t.Parallel()
	m := ready(t)
	secret := m.mint("etl").Secret
	m.system.ReplicationStateVal = consts.ReplicationPerformanceStandby
	m.backend.(*backend).hostCache.forgetState() // some seconds pass
	m.workspace.ResetCalls()
	for path, op := range map[string]logical.Operation{
		"config": logical.UpdateOperation, "roles/etl": logical.UpdateOperation, "creds/etl": logical.ReadOperation, "tokens/" + strings.Repeat("0", 64): logical.DeleteOperation,
	} {
		_, err := m.do(op, path, map[string]any{"ttl": "1m"})
		require.ErrorIs(t, err, logical.ErrReadOnly, path)
	}
	require.Empty(t, m.workspace.Calls())

	// A standby leaves the write-ahead log to the active node.
	_, err := framework.PutWAL(context.Background(), m.storage, walKind, intent{Nonce: "x", Credential: &credentialIntent{Type: credential.PAT}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	resp, err := m.rollback()
	m.requireOK(resp, err)
	require.Len(t, m.walEntries(), 1)
	require.Empty(t, m.workspace.Calls())

	// A performance secondary mints for itself, over its own write-ahead log, but forwards what is replicated.
	m.system.ReplicationStateVal = consts.ReplicationPerformanceSecondary
	m.mint("etl")
	_, err = m.do(logical.UpdateOperation, "roles/etl", map[string]any{"ttl": "1m"})
	require.ErrorIs(t, err, logical.ErrReadOnly)
	resp, err = m.revoke(secret)
	m.requireOK(resp, err)
}

func TestNothingIsTakenFromTheEnvironment(t *testing.T) {
	trap := simulator.New()
	defer trap.Close()
	home := t.TempDir()
	require.NoError(t, os.WriteFile(home+"/.databrickscfg", []byte("[DEFAULT]\nhost = "+trap.URL()+"\ntoken = dapi-of-the-trap\n"), 0o600))
	for name, value := range map[string]string{
		"HOME": home, "DATABRICKS_HOST": trap.URL(), "DATABRICKS_TOKEN": "dapi-of-the-trap", "DATABRICKS_CLIENT_ID": "x", "DATABRICKS_CLIENT_SECRET": "y",
		"DATABRICKS_CONFIG_PROFILE": "DEFAULT", "DATABRICKS_AUTH_TYPE": "basic", "DATABRICKS_ACCOUNT_ID": "z", "DATABRICKS_WORKSPACE_ID": "77", "DATABRICKS_RATE_LIMIT": "1",
	} {
		t.Setenv(name, value)
	}
	m := newMount(t)
	resp, err := m.do(logical.UpdateOperation, "config", map[string]any{})
	m.refused(resp, err, "host")
	m.makeReady()
	m.mint("etl")
	require.Empty(t, trap.Calls())
	for _, call := range m.workspace.Calls() {
		require.Empty(t, call.Header.Get("X-Databricks-Workspace-Id"))
		require.Regexp(t, `^vault-plugin-secrets-databricks/\S+ vault/1\.21\.1 go/\S+ os/\w+ auth/pat$`, call.Header.Get("User-Agent"))
	}
}

// TestOverTheWire walks the main path and the kinds of errors over gRPC, where errors lose their type unless outermost.
func TestOverTheWire(t *testing.T) {
	t.Parallel()
	m := newGRPCMount(t)
	resp, err := m.do(logical.ReadOperation, "creds/etl", nil)
	m.refused(resp, err, "role", "etl")
	m.makeReady()

	creds := m.mint("etl")
	require.Equal(t, http.StatusOK, m.whoami(creds.Data["token_value"].(string)))
	resp, err = m.leaseRequest(logical.RenewOperation, creds.Secret)
	m.requireOK(resp, err)
	require.Equal(t, 10*time.Minute, resp.Secret.TTL)
	resp, err = m.revoke(creds.Secret)
	m.requireOK(resp, err)
	require.Equal(t, http.StatusForbidden, m.whoami(creds.Data["token_value"].(string)))

	fault := m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/create", Status: http.StatusForbidden, ErrorCode: "PERMISSION_DENIED", Message: "no"})
	resp, err = m.do(logical.ReadOperation, "creds/etl", nil)
	m.refused(resp, err, "PERMISSION_DENIED", "403", "request id")
	fault.Clear()
	m.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/create", Status: http.StatusTooManyRequests, ErrorCode: "REQUEST_LIMIT_EXCEEDED", Message: "slow down", Header: http.Header{"Retry-After": {"600"}}})
	resp, err = m.do(logical.ReadOperation, "creds/etl", nil)
	m.coded(http.StatusTooManyRequests, resp, err)
	m.workspace.Close()
	fresh := newGRPCMount(t)
	fresh.makeReady()
	fresh.workspace.Inject(simulator.Fault{Path: "/api/2.0/token/create", Reset: true})
	resp, err = fresh.do(logical.ReadOperation, "creds/etl", nil)
	fresh.coded(http.StatusBadGateway, resp, err)
}
