// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	testMountID    = "5c1c8c1e-0000-4000-8000-0123456789ab"
	testDefaultTTL = 30 * time.Minute
	testMaxTTL     = 4 * time.Hour
)

// mount is one mount of the engine on real in-memory storage, connected to a simulated workspace of its own.
type mount struct {
	t       *testing.T
	backend logical.Backend
	routes  *backend // the same paths, to look up response schemas
	storage *hookedStorage
	system  *logical.StaticSystemView
	host    logical.SystemView // what the backend gets instead of system, if not nil
	events  *logical.MockEventSender
	onEvent func(kind string)

	tidyHeld bool
	log      *bytesLog

	workspace *simulator.Workspace
	admin     simulator.Principal
	token     string // the engine's own, of admin

	canaries canaries
}

// canaries are values of secrets, which may be seen nowhere but in a secret scope and in the answer to whoever reads it.
type canaries struct {
	mu     sync.Mutex
	values map[string]bool
}

// add ignores values so short that they turn up by chance.
func (c *canaries) add(values ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.values == nil {
		c.values = make(map[string]bool)
	}
	for _, value := range values {
		if text, ok := value.(string); ok && len(text) >= 8 {
			c.values[text] = true
		}
	}
}

// in answers a value that the text holds, "" for none.
func (c *canaries) in(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for value := range c.values {
		if strings.Contains(text, value) {
			return value
		}
	}
	return ""
}

// sent takes note of the values in a request to the engine.
func (c *canaries) sent(data map[string]any) {
	for _, field := range []string{"string_value", "bytes_value", "secrets", "bytes"} {
		switch value := data[field].(type) {
		case map[string]any:
			c.add(slices.Collect(maps.Values(value))...)
		default:
			c.add(value)
		}
	}
}

// stored takes note of the values in a request to Databricks, generated ones and delivered tokens among them.
func (c *canaries) stored(call simulator.Call) {
	if call.Path != "/api/2.0/secrets/put" {
		return
	}
	var body map[string]any
	if json.Unmarshal(call.Body, &body) == nil {
		c.sent(body)
	}
}

// newMount makes a mount without config.
func newMount(t *testing.T, opts ...simulator.Option) *mount {
	t.Helper()
	m := bareMount(t, opts...)
	b, err := Factory(context.Background(), m.config())
	require.NoError(t, err)
	m.backend = b
	return m
}

// newGRPCMount is newMount behind the same gRPC edge that Vault talks to an external plugin over.
func newGRPCMount(t *testing.T) *mount {
	t.Helper()
	m := bareMount(t)
	client, _ := goplugin.TestPluginGRPCConn(t, false, map[string]goplugin.Plugin{
		plugin.BackendPluginName: &plugin.GRPCBackendPlugin{Factory: Factory, Logger: m.log.logger},
	})
	t.Cleanup(func() { _ = client.Close() })
	raw, err := client.Dispense(plugin.BackendPluginName)
	require.NoError(t, err)
	m.backend = raw.(logical.Backend)
	conf := m.config()
	conf.StorageView = m.storage
	require.NoError(t, m.backend.Setup(context.Background(), conf))
	return m
}

func bareMount(t *testing.T, opts ...simulator.Option) *mount {
	t.Helper()
	m := &mount{
		t:       t,
		routes:  newBackend(testMountID),
		storage: &hookedStorage{Storage: new(logical.InmemStorage)},
		system: &logical.StaticSystemView{
			DefaultLeaseTTLVal: testDefaultTTL,
			MaxLeaseTTLVal:     testMaxTTL,
			PluginEnvironment:  &logical.PluginEnvironment{VaultVersion: "1.21.1"},
			EntityVal:          &logical.Entity{ID: "entity-1", Name: "alice"},
		},
		events: logical.NewMockEventSender(),
		log:    newLog(),
	}
	w := simulator.New(append(opts, simulator.WithObserver(m.canaries.stored))...)
	t.Cleanup(w.Close)
	m.workspace = w
	m.storage.canaries = &m.canaries
	m.admin = w.AddUser("engine@example.com", true)
	m.token, _ = w.AddToken(m.admin, "the engine's own", 0)
	t.Cleanup(func() {
		// Whatever a test did, no secret may have reached the log, at trace level.
		text := m.log.String()
		for _, secret := range m.secrets() {
			require.NotContains(t, text, secret, "a secret reached the log")
		}
		require.Empty(t, m.canaries.in(text), "a secret reached the log")
		require.Empty(t, m.storage.leaked, "a secret reached the storage")
		if t.Failed() {
			t.Log(text)
		}
	})
	return m
}

func (m *mount) config() *logical.BackendConfig {
	var host logical.SystemView = m.system
	if m.host != nil {
		host = m.host
	}
	return &logical.BackendConfig{
		Logger:       m.log.logger,
		System:       host,
		BackendUUID:  testMountID,
		EventsSender: m,
		Config:       map[string]string{},
	}
}

// SendEvent is Vault's event bus.
func (m *mount) SendEvent(ctx context.Context, kind logical.EventType, event *logical.EventData) error {
	if m.onEvent != nil {
		m.onEvent(string(kind))
	}
	return m.events.SendEvent(ctx, kind, event)
}

// secrets are the values that may never be seen in the open: the engine's own token, and all that was answered.
func (m *mount) secrets() []string {
	secrets := []string{m.token}
	for _, call := range m.workspace.Calls() {
		if auth := call.Header.Get("Authorization"); auth != "" {
			_, secret, _ := strings.Cut(auth, " ")
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

// do sends a request as Vault does, and checks that what the engine answers is what it declares.
func (m *mount) do(op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	return m.send(context.Background(), op, path, data)
}

func (m *mount) send(ctx context.Context, op logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	m.t.Helper()
	m.canaries.sent(data)
	req := &logical.Request{
		ID: "11111111-2222-3333-4444-555555555555", Operation: op, Path: path, Data: data, Storage: m.storage,
		MountPoint: "databricks/", DisplayName: "token-ci", EntityID: "entity-1",
	}
	if op == logical.UpdateOperation {
		found, exists, err := m.backend.HandleExistenceCheck(ctx, req)
		if mistake := (errutil.UserError{}); errors.As(err, &mistake) {
			return logical.ErrorResponse(mistake.Err), nil // as Vault answers it
		}
		if err != nil {
			return nil, err
		}
		if found && !exists {
			req.Operation = logical.CreateOperation
		}
	}
	resp, err := m.backend.HandleRequest(ctx, req)
	m.requireDiscreet(resp, err)
	if err == nil && resp != nil && !resp.IsError() && op != logical.HelpOperation {
		route := m.routes.Route(path)
		require.NotNil(m.t, route, path)
		schema.ValidateResponse(m.t, schema.GetResponseSchema(m.t, route, req.Operation), resp, true)
	}
	return resp, err
}

// requireDiscreet requires that no secret is in an error, a warning or what Vault keeps with a lease.
func (m *mount) requireDiscreet(resp *logical.Response, err error) {
	m.t.Helper()
	text := fmt.Sprint(err)
	if resp != nil {
		text += fmt.Sprint(resp.Warnings, resp.Error())
		if resp.Secret != nil {
			internal, err := json.Marshal(resp.Secret.InternalData)
			require.NoError(m.t, err)
			text += string(internal)
		}
	}
	require.Empty(m.t, m.canaries.in(text), "a secret in the open")
}

func (m *mount) read(path string) *logical.Response {
	m.t.Helper()
	resp, err := m.do(logical.ReadOperation, path, nil)
	m.requireOK(resp, err)
	return resp
}

func (m *mount) write(path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.do(logical.UpdateOperation, path, data)
	m.requireOK(resp, err)
	require.NotNil(m.t, resp, "every write answers, so that unknown fields are warned about")
	return resp
}

func (m *mount) requireOK(resp *logical.Response, err error) {
	m.t.Helper()
	require.NoError(m.t, err)
	if resp.IsError() {
		require.NoError(m.t, resp.Error())
	}
}

// refused requires a 400 that contains all the words.
func (m *mount) refused(resp *logical.Response, err error, words ...string) {
	m.t.Helper()
	require.NoError(m.t, err)
	require.NotNil(m.t, resp)
	require.True(m.t, resp.IsError(), "%#v", resp)
	for _, word := range words {
		require.Contains(m.t, resp.Error().Error(), word)
	}
}

// coded requires an error with the HTTP status that contains all the words.
func (m *mount) coded(status int, resp *logical.Response, err error, words ...string) {
	m.t.Helper()
	require.Error(m.t, err, "%#v", resp)
	var coded logical.HTTPCodedError
	require.ErrorAs(m.t, err, &coded)
	require.Equal(m.t, status, coded.Code(), err)
	for _, word := range words {
		require.Contains(m.t, err.Error(), word)
	}
}

// connect writes the config of a personal access token, with more fields on top.
func (m *mount) connect(more ...map[string]any) *logical.Response {
	m.t.Helper()
	data := map[string]any{"host": m.workspace.URL(), "token": m.token}
	for _, fields := range more {
		for k, v := range fields {
			data[k] = v
		}
	}
	return m.write("config", data)
}

// ready is a connected mount with the role "etl".
func ready(t *testing.T, opts ...simulator.Option) *mount {
	m := newMount(t, opts...)
	m.makeReady()
	return m
}

func (m *mount) makeReady() {
	m.t.Helper()
	m.connect()
	m.write("roles/etl", map[string]any{"credential_type": "pat", "ttl": "10m", "max_ttl": "1h"})
	m.workspace.ResetCalls()
}

// mint reads a credential and gives its lease the form in which Vault would keep it.
func (m *mount) mint(role string) *logical.Response {
	m.t.Helper()
	resp := m.read("creds/" + role)
	require.NotNil(m.t, resp.Secret)
	return resp
}

func (m *mount) leaseRequest(op logical.Operation, secret *logical.Secret) (*logical.Response, error) {
	kept := *secret
	if kept.IssueTime.IsZero() {
		kept.IssueTime = time.Now()
	}
	return m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: op, Path: "creds/etl", Storage: m.storage, Secret: &kept, MountPoint: "databricks/",
	})
}

func (m *mount) revoke(secret *logical.Secret) (*logical.Response, error) {
	return m.leaseRequest(logical.RevokeOperation, secret)
}

// rollback runs Vault's rollback over every entry of the write-ahead log, however young.
func (m *mount) rollback() (*logical.Response, error) {
	return m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: logical.RollbackOperation, Storage: m.storage, Data: map[string]any{"immediate": true},
	})
}

// forgetThrottling makes the mount connect anew, so that a test need not wait as long as Databricks said.
func (m *mount) forgetThrottling() {
	m.backend.InvalidateKey(context.Background(), configStorageKey)
}

func (m *mount) walEntries() []string {
	m.t.Helper()
	keys, err := framework.ListWAL(context.Background(), m.storage)
	require.NoError(m.t, err)
	return keys
}

// minted are the live tokens besides the engine's own.
func (m *mount) minted() []simulator.Token {
	var tokens []simulator.Token
	for _, token := range m.workspace.Tokens() {
		if token.Comment != "the engine's own" {
			tokens = append(tokens, token)
		}
	}
	return tokens
}

// whoami uses a token against the workspace and answers the HTTP status.
func (m *mount) whoami(token string) int {
	m.t.Helper()
	req, err := http.NewRequest(http.MethodGet, m.workspace.URL()+"/api/2.0/preview/scim/v2/Me", nil)
	require.NoError(m.t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	require.NoError(m.t, resp.Body.Close())
	return resp.StatusCode
}

// hookedStorage is real storage whose operations a test can hold up, watch or make fail.
type hookedStorage struct {
	logical.Storage
	mu   sync.Mutex
	hook func(op, key string) error
	// after runs when an operation has been done; its error is answered all the same, as when a leader steps down.
	after func(op, key string) error

	canaries *canaries
	leaked   []string // keys of entries with a secret in them
}

func (s *hookedStorage) afterEach(after func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = after
}

func (s *hookedStorage) done(op, key string, err error) error {
	s.mu.Lock()
	after := s.after
	s.mu.Unlock()
	if err != nil || after == nil {
		return err
	}
	return after(op, key)
}

func (s *hookedStorage) onEach(hook func(op, key string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *hookedStorage) run(op, key string) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, key)
}

func (s *hookedStorage) Get(ctx context.Context, key string) (*logical.StorageEntry, error) {
	if err := s.run("get", key); err != nil {
		return nil, err
	}
	return s.Storage.Get(ctx, key)
}

func (s *hookedStorage) Put(ctx context.Context, entry *logical.StorageEntry) error {
	sealed := strings.HasPrefix(entry.Key, configStoragePrefix) || strings.HasPrefix(entry.Key, staticStoragePrefix)
	if s.canaries != nil && !sealed && s.canaries.in(string(entry.Value)) != "" {
		s.mu.Lock()
		s.leaked = append(s.leaked, entry.Key)
		s.mu.Unlock()
	}
	if err := s.run("put", entry.Key); err != nil {
		return err
	}
	return s.done("put", entry.Key, s.Storage.Put(ctx, entry))
}

func (s *hookedStorage) Delete(ctx context.Context, key string) error {
	if err := s.run("delete", key); err != nil {
		return err
	}
	return s.done("delete", key, s.Storage.Delete(ctx, key))
}

func (s *hookedStorage) List(ctx context.Context, prefix string) ([]string, error) {
	if err := s.run("list", prefix); err != nil {
		return nil, err
	}
	return s.Storage.List(ctx, prefix)
}

// bytesLog keeps what is logged, at trace level.
type bytesLog struct {
	mu     sync.Mutex
	buffer bytes.Buffer
	logger hclog.Logger
}

func newLog() *bytesLog {
	l := new(bytesLog)
	l.logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Trace, Output: l})
	return l
}

func (l *bytesLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *bytesLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

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
	m.workspace.ResetCalls()
	for path, op := range map[string]logical.Operation{
		"config": logical.UpdateOperation, "roles/etl": logical.UpdateOperation, "creds/etl": logical.ReadOperation, "tokens/" + strings.Repeat("0", 64): logical.DeleteOperation,
	} {
		_, err := m.do(op, path, map[string]any{"ttl": "1m"})
		require.ErrorIs(t, err, logical.ErrReadOnly, path)
	}
	require.Empty(t, m.workspace.Calls())

	// A standby leaves the write-ahead log to the active node.
	_, err := framework.PutWAL(context.Background(), m.storage, walKind, intent{Nonce: "x", Credential: &credentialIntent{Type: credentialPAT}, Expires: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	resp, err := m.rollback()
	require.NoError(t, err)
	require.ErrorContains(t, resp.Error(), logical.ErrReadOnly.Error())
	require.Len(t, m.walEntries(), 1)

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
