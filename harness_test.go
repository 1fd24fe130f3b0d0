// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"vault-plugin-secrets-databricks/internal/simulator"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/helper/errutil"
	"github.com/hashicorp/vault/sdk/helper/testhelpers/schema"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/plugin"
	"github.com/stretchr/testify/require"
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
	host    logical.SystemView       // what the backend gets instead of system, if not nil
	events  *logical.MockEventSender // read it by sent
	bus     atomic.Pointer[eventBus]

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
	var body map[string]any
	switch {
	case call.Path == "/api/2.0/secrets/put":
		if json.Unmarshal(call.Body, &body) == nil {
			c.sent(body)
		}
	case strings.HasPrefix(call.Path, "/api/2.1/unity-catalog/secrets"):
		if json.Unmarshal(call.Body, &body) == nil {
			c.add(body["value"])
		}
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
			DefaultLeaseTTLVal:  testDefaultTTL,
			MaxLeaseTTLVal:      testMaxTTL,
			PluginEnvironment:   &logical.PluginEnvironment{VaultVersion: "1.21.1"},
			ReplicationStateVal: consts.ReplicationDRDisabled | consts.ReplicationPerformanceDisabled, // as of every server without replication
			EntityVal:           &logical.Entity{ID: "entity-1", Name: "alice"},
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

// eventBus is what a test makes of Vault's event bus. An event that it returns an error for is lost.
type eventBus func(ctx context.Context, kind string) error

// onEvent calls bus for every event, beside the requests.
func (m *mount) onEvent(bus eventBus) { m.bus.Store(&bus) }

// SendEvent is Vault's event bus.
func (m *mount) SendEvent(ctx context.Context, kind logical.EventType, event *logical.EventData) error {
	if bus := m.bus.Load(); bus != nil {
		if err := (*bus)(ctx, string(kind)); err != nil {
			return err
		}
	}
	allEvents.note(string(kind), event.GetMetadata().AsMap())
	return m.events.SendEvent(ctx, kind, event)
}

// sent are the events so far, those of all requests that have been answered among them.
func (m *mount) sent() []logical.MockEvent {
	if s := m.sending(); s != nil {
		<-s.done
	}
	m.events.Lock()
	defer m.events.Unlock()
	return slices.Clone(m.events.Events)
}

// sending is what the mount sends at the moment; nil for nothing.
func (m *mount) sending() *eventsSent {
	q := &m.backend.(*backend).events
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sending
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
	if op == logical.DeleteOperation && resp == nil && err == nil {
		return &logical.Response{}, nil // a 204, without warnings
	}
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
	require.NotNil(m.t, resp, "every write answers what it has done")
	return resp
}

func (m *mount) requireOK(resp *logical.Response, err error) {
	m.t.Helper()
	require.NoError(m.t, err)
	if resp.IsError() {
		require.NoError(m.t, resp.Error())
	}
}

// refused requires a 400 that contains all the words: an error response, or an error for the renewal or revocation of a lease.
func (m *mount) refused(resp *logical.Response, err error, words ...string) {
	m.t.Helper()
	if coded := (logical.HTTPCodedError)(nil); errors.As(err, &coded) && coded.Code() == http.StatusBadRequest {
		require.Nil(m.t, resp)
		resp, err = logical.ErrorResponse(err.Error()), nil
	}
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
	resp, err := m.backend.HandleRequest(context.Background(), &logical.Request{
		Operation: op, Path: "creds/etl", Storage: m.storage, Secret: &kept, MountPoint: "databricks/",
	})
	require.False(m.t, resp.IsError(), "Vault prints an error response to a renewal or revocation as Go does: %#v", resp)
	return resp, err
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

// walEntries are the ids of the pending operations in the write-ahead log.
func (m *mount) walEntries() []string { return m.walEntriesOf(walKind) }

// records are the ids of the records of leases.
func (m *mount) records() []string { return m.walEntriesOf(recordKind) }

func (m *mount) walEntriesOf(kind string) []string {
	m.t.Helper()
	ids, err := framework.ListWAL(context.Background(), m.storage)
	require.NoError(m.t, err)
	return slices.DeleteFunc(ids, func(id string) bool {
		entry, err := framework.GetWAL(context.Background(), m.storage, id)
		require.NoError(m.t, err)
		return entry == nil || (entry.Kind == recordKind) != (kind == recordKind)
	})
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
	return m.get(token, "/api/2.0/preview/scim/v2/Me")
}

// get asks the workspace with a token and answers the HTTP status.
func (m *mount) get(token, path string) int {
	m.t.Helper()
	req, err := http.NewRequest(http.MethodGet, m.workspace.URL()+path, nil)
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

// requests are the calls so far, as method and path. Ids of things made meanwhile are left out.
func (m *mount) requests() []string {
	var list []string
	for _, call := range m.workspace.Calls() {
		path := call.Path
		switch {
		case strings.HasPrefix(path, secretsPath) && call.Method == http.MethodDelete:
			path = secretsPath + "…/secrets/…"
		case strings.HasPrefix(path, secretsPath):
			path = secretsPath + "…/secrets"
		case strings.HasPrefix(path, principalsPath+"/"):
			path = principalsPath + "/…"
		}
		list = append(list, call.Method+" "+path)
	}
	return list
}

// body decodes what the nth call so far sent.
func (m *mount) body(n int) map[string]any {
	m.t.Helper()
	var body map[string]any
	require.NoError(m.t, json.Unmarshal(m.workspace.Calls()[n].Body, &body))
	return body
}

// hidden requires that the value of a new credential is neither stored nor kept with its lease. That it is not logged is
// required when the test ends.
func (m *mount) hidden(resp *logical.Response, field string) string {
	m.t.Helper()
	value, _ := resp.Data[field].(string)
	require.NotEmpty(m.t, value, field)
	m.canaries.add(value)
	m.requireDiscreet(resp, nil)
	keys, err := logical.CollectKeys(m.t.Context(), m.storage)
	require.NoError(m.t, err)
	for _, key := range keys {
		entry, err := m.storage.Get(m.t.Context(), key)
		require.NoError(m.t, err)
		require.NotContains(m.t, string(entry.Value), value, key)
	}
	return value
}

// login exchanges an OAuth secret for an access token, "" when it is refused.
func (m *mount) login(path, clientID, secret string) string {
	m.t.Helper()
	form := url.Values{"grant_type": {"client_credentials"}}
	req, err := http.NewRequest(http.MethodPost, m.workspace.URL()+path, strings.NewReader(form.Encode()))
	require.NoError(m.t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(clientID+":"+secret)))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(m.t, err)
	defer resp.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(m.t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer.AccessToken
}

// renewed requires that a renewal succeeds without a call.
func (m *mount) renewed(secret *logical.Secret, ttl time.Duration) {
	m.t.Helper()
	before := len(m.workspace.Calls())
	resp, err := m.leaseRequest(logical.RenewOperation, secret)
	m.requireOK(resp, err)
	require.Equal(m.t, ttl, resp.Secret.TTL)
	require.Len(m.t, m.workspace.Calls(), before)
}

// moment reads a time of an answer.
func (m *mount) moment(value any) time.Time {
	m.t.Helper()
	at, err := time.Parse(time.RFC3339, value.(string))
	require.NoError(m.t, err)
	return at
}

// mintFault is what happens to a mint, and what must be left of it: at once, and nothing after a rollback.
type mintFault struct {
	faults []simulator.Fault
	status int    // of the answer; 400 for a refusal, 0 for success, 502 stands for 504, too
	word   string // in the error
	walled bool   // an entry stays for the rollback
	left   int    // things at Databricks at once that no lease needs
	calls  int    // creates, of the first thing
}

// lateCreate are the faults of a create that is one call.
func lateCreate(method, path string) map[string]mintFault {
	fault := func(f simulator.Fault) []simulator.Fault {
		f.Method, f.Path = method, path
		return []simulator.Fault{f}
	}
	return map[string]mintFault{
		"refused":                 {fault(simulator.Fault{Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"}), 400, "HTTP 400", false, 0, 1},
		"forbidden":               {fault(simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"}), 400, "admin", false, 0, 1},
		"throttled once":          {fault(simulator.Fault{Status: 429, Times: 1}), 0, "", true, 0, 2},
		"throttled with a twin":   {fault(simulator.Fault{Status: 429, Times: 1, AfterEffect: true}), 0, "", true, 1, 2},
		"unavailable with a twin": {fault(simulator.Fault{Status: 503, Times: 1, AfterEffect: true}), 0, "", true, 1, 2},
		"throttled for long":      {fault(simulator.Fault{Status: 429, Header: http.Header{"Retry-After": {"3600"}}}), 429, "429", true, 0, 1},
		"broken":                  {fault(simulator.Fault{Status: 500}), 502, "500", true, 0, 1},
		"broken after the effect": {fault(simulator.Fault{Status: 500, AfterEffect: true}), 502, "500", true, 1, 1},
		"gateway time-out":        {fault(simulator.Fault{Status: 504, AfterEffect: true}), 502, "", true, 1, 1},
		"reset":                   {fault(simulator.Fault{Reset: true}), 502, "", true, 0, 1},
		"reply lost, reset":       {fault(simulator.Fault{Reset: true, AfterEffect: true}), 502, "", true, 1, 1},
		"reply lost, closed":      {fault(simulator.Fault{Close: true, AfterEffect: true}), 502, "", true, 1, 1},
		"login page":              {fault(simulator.Fault{HTML: true}), 502, "web page", true, 0, 1},
		"reply cut in the middle": {fault(simulator.Fault{Truncate: true, AfterEffect: true}), 502, "", true, 1, 1},
		"reply without anything":  {fault(simulator.Fault{Status: 200, Body: "{}", AfterEffect: true}), 502, "", true, 1, 1},
	}
}

// mintFaults runs the rows. Things counts what mints of the role make at Databricks, creates how often that was asked for,
// and works requires that a credential which was answered does.
func mintFaults(t *testing.T, rows map[string]mintFault, setup func(*testing.T) *mount, things, creates func(*mount) int, leased int, works func(*mount, *logical.Response)) {
	t.Helper()
	for name, row := range rows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := setup(t)
			m.write("config", map[string]any{"max_retries": 1})
			m.workspace.ResetCalls()
			for _, fault := range row.faults {
				m.workspace.Inject(fault)
			}
			before := things(m)
			resp, err := m.do(logical.ReadOperation, "creds/job", nil)
			kept := before
			switch row.status {
			case 0:
				m.requireOK(resp, err)
				kept += leased
			case 400:
				m.refused(resp, err, row.word)
			case 429:
				m.coded(429, resp, err, row.word)
			default:
				require.ErrorContains(t, err, row.word)
				var coded logical.HTTPCodedError
				require.ErrorAs(t, err, &coded)
				require.Contains(t, []int{502, 504}, coded.Code(), err)
			}
			require.Equal(t, row.calls, creates(m), "creates")
			require.Equal(t, kept+row.left, things(m), "at once: %v", m.requests())
			require.Len(t, m.walEntries(), map[bool]int{true: 1}[row.walled])

			m.workspace.ClearFaults()
			m.forgetThrottling()
			m.rolledBack()
			require.Equal(t, kept, things(m), "after the rollback: %v", m.requests())
			if row.status == 0 {
				works(m, resp)
				revoked, err := m.revoke(resp.Secret)
				m.requireOK(revoked, err)
				require.Equal(t, before, things(m))
			}
		})
	}
}

func (m *mount) end(lease *logical.Secret) {
	m.t.Helper()
	resp, err := m.revoke(lease)
	m.requireOK(resp, err)
}

// has is the value of a secret of the scope "etl", and whether there is one.
func (m *mount) has(key string) (string, bool) {
	secret, ok := m.scope("etl").Secrets[key]
	return string(secret.Value), ok
}

// restart makes the plugin forget what it does not store, as a new process has.
func (m *mount) restart() {
	m.t.Helper()
	m.backend.Cleanup(context.Background())
	b, err := Factory(context.Background(), m.config())
	require.NoError(m.t, err)
	m.backend = b
}

// rolledBack runs the rollback and requires that nothing is left to do for it.
func (m *mount) rolledBack() {
	m.t.Helper()
	resp, err := m.rollback()
	m.requireOK(resp, err)
	require.Empty(m.t, m.walEntries())
}

// onCommit calls do for every change of the write-ahead log after the next entry was added.
func (m *mount) onCommit(do func() error) {
	added := false
	m.storage.onEach(func(op, key string) error {
		if op != "put" && op != "delete" || !strings.HasPrefix(key, framework.WALPrefix) {
			return nil
		}
		if !added {
			added = true
			return nil
		}
		return do()
	})
}

// lastMoments are those of an operation that has done at Databricks what it was to do. Each calls do, once. done reports whether that is done.
var lastMoments = map[string]func(m *mount, done func() bool, do func()){
	"before the commit": func(m *mount, done func() bool, do func()) { m.storage.onEach(onceInTheLog(done, do)) },
	"after the commit":  func(m *mount, done func() bool, do func()) { m.storage.afterEach(onceInTheLog(done, do)) },
}

// onceInTheLog calls do for the first change of the write-ahead log that comes when something is done.
func onceInTheLog(done func() bool, do func()) func(op, key string) error {
	once := new(sync.Once)
	return func(op, key string) error {
		if (op == "put" || op == "delete") && strings.HasPrefix(key, framework.WALPrefix) && done() {
			once.Do(do)
		}
		return nil
	}
}

// walIntent is the only pending operation of the write-ahead log.
func (m *mount) walIntent() (id string, in intent) {
	m.t.Helper()
	ids := m.walEntries()
	require.Len(m.t, ids, 1)
	entry, err := framework.GetWAL(m.t.Context(), m.storage, ids[0])
	require.NoError(m.t, err)
	require.NoError(m.t, decodeMap(entry.Data, &in))
	return ids[0], in
}

// age makes the only intent of the write-ahead log look older.
func (m *mount) age(by time.Duration) {
	m.t.Helper()
	id, in := m.walIntent()
	in.Started = in.Started.Add(-by)
	if !in.StartedRemote.IsZero() {
		in.StartedRemote = in.StartedRemote.Add(-by)
	}
	value, err := json.Marshal(&framework.WALEntry{Kind: walKind, Data: in, CreatedAt: time.Now().Add(-by).Unix()})
	require.NoError(m.t, err)
	require.NoError(m.t, m.storage.Storage.Put(m.t.Context(), &logical.StorageEntry{Key: framework.WALPrefix + id, Value: value}))
	m.backend.InvalidateKey(m.t.Context(), framework.WALPrefix+id)
}

// withScope is a connected mount with the scope "etl", whose manager is the engine.
func withScope(t *testing.T, opts ...simulator.Option) *mount {
	m := ready(t, opts...)
	m.workspace.AddScope("etl", m.admin)
	return m
}

// impatient makes the mount not repeat its calls.
func (m *mount) impatient() {
	m.t.Helper()
	m.write("config", map[string]any{"max_retries": 0})
	m.workspace.ResetCalls()
}

// reconnectAs connects the mount as another user, who is no admin.
func (m *mount) reconnectAs(name string) simulator.Principal {
	m.t.Helper()
	user := m.workspace.AddUser(name, false)
	token, _ := m.workspace.AddToken(user, "the engine's own", 0)
	m.write("config", map[string]any{"token": token})
	m.workspace.ResetCalls()
	return user
}

// scope is a scope of the workspace, the zero value if there is none.
func (m *mount) scope(name string) simulator.Scope {
	for _, scope := range m.workspace.Scopes() {
		if scope.Name == name {
			return scope
		}
	}
	return simulator.Scope{}
}

// failure is the error of a request, whichever way it came.
func (m *mount) failure(resp *logical.Response, err error) error {
	m.t.Helper()
	if err == nil {
		err = resp.Error()
	}
	require.Error(m.t, err)
	return err
}

func (m *mount) patch(path string, data map[string]any) *logical.Response {
	m.t.Helper()
	resp, err := m.do(logical.PatchOperation, path, data)
	m.requireOK(resp, err)
	return resp
}

func (m *mount) list(path string) any {
	m.t.Helper()
	resp, err := m.do(logical.ListOperation, path, nil)
	m.requireOK(resp, err)
	return resp.Data["keys"]
}

// whoamiLive is the ids of the live tokens that this answer handed out.
func (m *mount) whoamiLive(creds *logical.Response) []string {
	var live []string
	for _, token := range m.minted() {
		if token.ID == creds.Data["token_id"] {
			live = append(live, token.ID)
		}
	}
	return live
}

// clock is the time of a mount and of its workspace. It moves when a test moves it, and by a millisecond whenever it is read.
type clock struct {
	mu    sync.Mutex
	at    time.Time
	ahead time.Duration // by which Vault's clock is wrong
}

func newClock() *clock {
	return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(time.Millisecond)
	return c.at
}

// vault is the time on Vault's clock.
func (c *clock) vault() time.Time {
	at := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return at.Add(c.ahead)
}

// runAhead makes Vault's clock wrong, or right again.
func (c *clock) runAhead(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead = d
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// newTimedMount is a mount without config whose time, and whose workspace's, is the clock's.
func newTimedMount(t *testing.T, opts ...simulator.Option) (*mount, *clock) {
	t.Helper()
	c := newClock()
	m := newMount(t, append(opts, simulator.WithClock(c.now))...)
	m.backend.(*backend).clock = c.vault
	return m, c
}

// holdTidy keeps tidy from beginning by itself, here and after restarts, and the first OAuth secret from a look at the write-ahead log:
// they would make the steps that are counted differ from run to run.
func (m *mount) holdTidy() {
	m.tidyHeld = true
	done := make(chan struct{})
	close(done)
	m.backend.(*backend).lifetimes.loaded.Store(true)
	require.NoError(m.t, m.backend.(*backend).intents.load(context.Background(), m.storage.Storage, m.backend.(*backend).now()))
	t := &m.backend.(*backend).tidy
	t.mu.Lock()
	defer t.mu.Unlock()
	t.run, t.status = &tidyRun{cancel: func(error) {}, done: done}, &tidyStatus{State: tidyRunning}
}

// tick is what Vault does about once a minute, with every entry of the write-ahead log, however young.
func (m *mount) tick() {
	m.t.Helper()
	resp, err := m.rollback()
	m.requireOK(resp, err)
}

// restartAt replaces the backend by a new one on the same storage, as a restart of the plugin does.
func (m *mount) restartAt(c *clock) {
	m.t.Helper()
	b, err := Factory(context.Background(), m.config())
	require.NoError(m.t, err)
	b.(*backend).clock = c.vault
	m.backend.Cleanup(context.Background())
	m.backend = b
	if m.tidyHeld {
		m.holdTidy()
	}
}

// die makes everything fail that the plugin does from now on, at Databricks and in the storage, as if its process had ended.
func (m *mount) die() {
	dead := func(string, string) error { return logical.ErrReadOnly }
	m.storage.onEach(dead)
	m.workspace.ClearFaults()
	m.workspace.Inject(simulator.Fault{Reset: true})
}

// revive begins anew where die ended.
func (m *mount) revive(c *clock) {
	m.t.Helper()
	m.storage.onEach(nil)
	m.storage.afterEach(nil)
	m.workspace.ClearFaults()
	m.restartAt(c)
}

// skipLong leaves a test that takes many seconds of CPU time to "make test"; "make check" runs without it.
func skipLong(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes long; make test runs it")
	}
}
