// SPDX-License-Identifier: MPL-2.0

package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// secretCall is a call of one method of the Secrets API, and what it must send.
type secretCall struct {
	op     string
	do     func(context.Context, *Client) error
	method string
	query  string // decoded, sorted by name
	body   string
	answer string // what Databricks says to it when all is well
}

// oddPrincipal has whatever means something in a query, and more.
const oddPrincipal = "Data Eng/R+D 100% a&b=c;d?#[x] \"é\" 日本 %2F"

var secretCalls = []secretCall{
	{opScopeCreate, func(ctx context.Context, c *Client) error {
		return c.CreateScope(ctx, Scope{Name: "s"}, "")
	}, "POST", "", `{"scope":"s"}`, emptyObject},
	{opScopeDelete, func(ctx context.Context, c *Client) error {
		return c.DeleteScope(ctx, "s")
	}, "POST", "", `{"scope":"s"}`, emptyObject},
	{opScopeList, func(ctx context.Context, c *Client) error {
		_, err := c.ListScopes(ctx)
		return err
	}, "GET", "", "", `{"scopes":[{"name":"s","backend_type":"DATABRICKS"}]}`},
	{opSecretPut, func(ctx context.Context, c *Client) error {
		return c.PutSecretString(ctx, "s", "k", "välue <&>")
	}, "POST", "", `{"scope":"s","key":"k","string_value":"välue <&>"}`, emptyObject},
	{opSecretPut, func(ctx context.Context, c *Client) error {
		return c.PutSecretBytes(ctx, "s", "k", []byte{0xff, 0xfe, 0})
	}, "POST", "", `{"scope":"s","key":"k","bytes_value":"//4A"}`, emptyObject},
	{opSecretDelete, func(ctx context.Context, c *Client) error {
		return c.DeleteSecret(ctx, "s", "k", nil)
	}, "POST", "", `{"scope":"s","key":"k"}`, emptyObject},
	{opSecretGet, func(ctx context.Context, c *Client) error {
		_, err := c.GetSecret(ctx, "s", "k")
		return err
	}, "GET", "key=k scope=s", "", `{"key":"k","value":"dg=="}`},
	{opSecretList, func(ctx context.Context, c *Client) error {
		_, err := c.ListSecrets(ctx, "s")
		return err
	}, "GET", "scope=s", "", `{"secrets":[{"key":"k","last_updated_timestamp":1520467595000}]}`},
	{opACLPut, func(ctx context.Context, c *Client) error {
		return c.PutACL(ctx, "s", ACL{Principal: oddPrincipal, Permission: "READ"})
	}, "POST", "", `{"scope":"s","principal":` + inJSON(oddPrincipal) + `,"permission":"READ"}`, emptyObject},
	{opACLDelete, func(ctx context.Context, c *Client) error {
		return c.DeleteACL(ctx, "s", oddPrincipal)
	}, "POST", "", `{"scope":"s","principal":` + inJSON(oddPrincipal) + `}`, emptyObject},
	{opACLGet, func(ctx context.Context, c *Client) error {
		_, err := c.GetACL(ctx, "s", oddPrincipal)
		return err
	}, "GET", "principal=" + oddPrincipal + " scope=s", "", `{"principal":"p","permission":"READ"}`},
	{opACLList, func(ctx context.Context, c *Client) error {
		_, err := c.ListACLs(ctx, "s")
		return err
	}, "GET", "scope=s", "", `{"items":[{"principal":"p","permission":"READ"}]}`},
}

func inJSON(text string) string {
	encoded, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(encoded)
}

func TestSecretsWireFormat(t *testing.T) {
	t.Parallel()
	for _, call := range secretCalls {
		t.Run(call.op, func(t *testing.T) {
			t.Parallel()
			var query, body string
			var got *http.Request
			s := newServer(t, func(w http.ResponseWriter, r *http.Request) {
				sent, _ := io.ReadAll(r.Body)
				values := r.URL.Query()
				if len(values) > 0 {
					query = "scope=" + values.Get("scope")
				}
				for _, name := range []string{"key", "principal"} {
					if values.Has(name) {
						query = name + "=" + values.Get(name) + " " + query
					}
				}
				got, body = r, string(sent)
				answer(200, call.answer)(w, r)
			})
			cfg := patConfig(s.URL)
			cfg.WorkspaceID = "900800700600"
			require.NoError(t, call.do(t.Context(), newClient(t, cfg)))
			require.Equal(t, call.method+" /api/2.0/"+call.op, got.Method+" "+got.URL.Path)
			require.Equal(t, call.query, query)
			if call.body == "" {
				require.Empty(t, body)
			} else {
				require.Empty(t, got.URL.RawQuery)
				require.JSONEq(t, call.body, body)
				require.Equal(t, "application/json", got.Header.Get("Content-Type"))
			}
			require.Equal(t, "900800700600", got.Header.Get("X-Databricks-Workspace-Id"))
			require.Equal(t, "Bearer "+testToken, got.Header.Get("Authorization"))
			require.Equal(t, "vault-test/1.0", got.Header.Get("User-Agent"))

			s = newServer(t, func(w http.ResponseWriter, r *http.Request) {
				got = r
				answer(200, call.answer)(w, r)
			})
			require.NoError(t, call.do(t.Context(), newClient(t, patConfig(s.URL))))
			require.NotContains(t, got.Header, "X-Databricks-Workspace-Id")
		})
	}
}

func TestCreateScopeWireFormat(t *testing.T) {
	t.Parallel()
	vault := Scope{Name: "s", BackendType: BackendAzureKeyVault, KeyvaultResourceID: "/subscriptions/1", KeyvaultDNSName: "https://v.vault.azure.net/"}
	withTenant := vault
	withTenant.KeyvaultTenantID = "t"
	notAVault := withTenant
	notAVault.BackendType = BackendDatabricks
	table := []struct {
		scope   Scope
		manager string
		body    string
	}{
		{Scope{Name: "s", BackendType: BackendDatabricks}, "users", `{"scope":"s","initial_manage_principal":"users","scope_backend_type":"DATABRICKS"}`},
		{vault, "", `{"scope":"s","scope_backend_type":"AZURE_KEYVAULT","backend_azure_keyvault":{"resource_id":"/subscriptions/1","dns_name":"https://v.vault.azure.net/"}}`},
		{withTenant, "", `{"scope":"s","scope_backend_type":"AZURE_KEYVAULT","backend_azure_keyvault":{"resource_id":"/subscriptions/1","dns_name":"https://v.vault.azure.net/","tenant_id":"t"}}`},
		{notAVault, "", `{"scope":"s","scope_backend_type":"DATABRICKS"}`},
	}
	for _, row := range table {
		rec := record(t, emptyObject)
		require.NoError(t, newClient(t, patConfig(rec.URL)).CreateScope(t.Context(), row.scope, row.manager))
		require.JSONEq(t, row.body, rec.last.Load().(recorded).body)
	}
}

func TestExactlyOneValueIsSent(t *testing.T) {
	t.Parallel()
	table := []struct {
		name string
		put  func(*Client) error
		want string
	}{
		{"empty text", func(c *Client) error { return c.PutSecretString(t.Context(), "s", "k", "") }, `{"scope":"s","key":"k","string_value":""}`},
		{"no bytes", func(c *Client) error { return c.PutSecretBytes(t.Context(), "s", "k", nil) }, `{"scope":"s","key":"k","bytes_value":""}`},
		{"text of base64", func(c *Client) error { return c.PutSecretString(t.Context(), "s", "k", "YWJj") }, `{"scope":"s","key":"k","string_value":"YWJj"}`},
		{"bytes of a text", func(c *Client) error { return c.PutSecretBytes(t.Context(), "s", "k", []byte("a\n")) }, `{"scope":"s","key":"k","bytes_value":"YQo="}`},
		{"odd text", func(c *Client) error { return c.PutSecretString(t.Context(), "s", "k", "\x00\u2028\U0001F511\"\\") }, `{"scope":"s","key":"k","string_value":"\u0000\u2028` + "\U0001F511" + `\"\\"}`},
	}
	for _, row := range table {
		rec := record(t, emptyObject)
		require.NoError(t, row.put(newClient(t, patConfig(rec.URL))), row.name)
		require.JSONEq(t, row.want, rec.last.Load().(recorded).body, row.name)
	}
}

func TestTextMustBeUTF8(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	err := newClient(t, patConfig(s.URL)).PutSecretString(t.Context(), "s", "k", "hunter2\xff")
	e := failureOf(t, err)
	require.Equal(t, Refused, e.Kind)
	require.True(t, e.Unprocessed)
	require.Equal(t, "secrets/put: the request was not sent: the text is not valid UTF-8; store it as bytes", err.Error())
	require.Zero(t, s.requests.Load())
}

// simulated starts a workspace, and a client of its admin.
func simulated(t testing.TB, opts ...simulator.Option) (*simulator.Workspace, *Client) {
	t.Helper()
	w := simulator.New(opts...)
	t.Cleanup(w.Close)
	token, _ := w.AddToken(w.AddUser("admin@example.com", true), "", time.Hour)
	cfg := patConfig(w.URL())
	cfg.Token, cfg.WorkspaceID = Secret(token), w.ID()
	return w, newClient(t, cfg)
}

func TestSecretsOfAWorkspace(t *testing.T) {
	t.Parallel()
	w, c := simulated(t)
	ctx := t.Context()
	before := time.Now().Truncate(time.Millisecond).UTC()

	require.NoError(t, c.CreateScope(ctx, Scope{Name: "s"}, ""))
	scopes, err := c.ListScopes(ctx)
	require.NoError(t, err)
	require.Equal(t, []Scope{{Name: "s", BackendType: BackendDatabricks}}, scopes)

	full := bytes.Repeat([]byte{0xff, 0x00, '\n'}, MaxSecretValue/3)
	values := map[string][]byte{"text": []byte("pässword\n"), "empty": {}, "bytes": {0xff, 0xfe, 0}, "no-bytes": {}, "full": full}
	require.NoError(t, c.PutSecretString(ctx, "s", "text", "first"))
	require.NoError(t, c.PutSecretString(ctx, "s", "text", "pässword\n"))
	require.NoError(t, c.PutSecretString(ctx, "s", "empty", ""))
	require.NoError(t, c.PutSecretBytes(ctx, "s", "bytes", values["bytes"]))
	require.NoError(t, c.PutSecretBytes(ctx, "s", "no-bytes", nil))
	require.NoError(t, c.PutSecretBytes(ctx, "s", "full", full))
	for key, want := range values {
		got, err := c.GetSecret(ctx, "s", key)
		require.NoError(t, err, key)
		require.Equal(t, want, got, key)
	}
	infos, err := c.ListSecrets(ctx, "s")
	require.NoError(t, err)
	require.Len(t, infos, len(values))
	for _, info := range infos {
		require.Contains(t, values, info.Key)
		require.False(t, info.Updated.Before(before))
		require.Equal(t, time.UTC, info.Updated.Location())
	}
	require.NoError(t, c.DeleteSecret(ctx, "s", "text", nil))
	_, err = c.GetSecret(ctx, "s", "text")
	require.Equal(t, NotFound, failureOf(t, err).Kind)
	w.SetSecretReads(false)
	value, err := c.GetSecret(ctx, "s", "full")
	e := failureOf(t, err)
	require.Equal(t, "BAD_REQUEST", e.ErrorCode)
	require.Equal(t, Refused, e.Kind)
	require.Nil(t, value)

	w.AddUser(oddPrincipal, false)
	require.NoError(t, c.PutACL(ctx, "s", ACL{oddPrincipal, "READ"}))
	require.NoError(t, c.PutACL(ctx, "s", ACL{oddPrincipal, "WRITE"}))
	acl, err := c.GetACL(ctx, "s", oddPrincipal)
	require.NoError(t, err)
	require.Equal(t, &ACL{oddPrincipal, "WRITE"}, acl)
	acls, err := c.ListACLs(ctx, "s")
	require.NoError(t, err)
	require.ElementsMatch(t, []ACL{{oddPrincipal, "WRITE"}, {"admin@example.com", "MANAGE"}}, acls)
	require.NoError(t, c.DeleteACL(ctx, "s", oddPrincipal))
	acl, err = c.GetACL(ctx, "s", oddPrincipal)
	require.Equal(t, NotFound, failureOf(t, err).Kind)
	require.Nil(t, acl)

	require.NoError(t, c.DeleteScope(ctx, "s"))
	require.Empty(t, w.Scopes())
}

func TestKeyVaultScopes(t *testing.T) {
	t.Parallel()
	_, c := simulated(t, simulator.WithAzureKeyVault())
	vault := Scope{Name: "v", BackendType: BackendAzureKeyVault, KeyvaultResourceID: "/subscriptions/1", KeyvaultDNSName: "https://v.vault.azure.net/"}
	require.NoError(t, c.CreateScope(t.Context(), vault, ""))
	scopes, err := c.ListScopes(t.Context())
	require.NoError(t, err)
	require.Equal(t, []Scope{vault}, scopes)
	require.Equal(t, "BAD_REQUEST", failureOf(t, c.PutSecretString(t.Context(), "v", "k", "v")).ErrorCode)
}

func TestMissingListsAreEmpty(t *testing.T) {
	t.Parallel()
	for _, body := range []string{emptyObject, `{"scopes":null,"secrets":null,"items":null}`, `{"scopes":[],"secrets":[],"items":[]}`, `{"acls":[{"principal":"p"}]}`} {
		c := newClient(t, patConfig(newServer(t, answer(200, body), answer(200, body), answer(200, body)).URL))
		scopes, err := c.ListScopes(t.Context())
		require.NoError(t, err)
		require.Equal(t, []Scope{}, scopes)
		infos, err := c.ListSecrets(t.Context(), "s")
		require.NoError(t, err)
		require.Equal(t, []SecretInfo{}, infos)
		acls, err := c.ListACLs(t.Context(), "s")
		require.NoError(t, err)
		require.Equal(t, []ACL{}, acls)
	}
}

func TestEmptySecretIsRead(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"key":"k"}`, `{"key":"k","value":""}`, `{"key":"k","value":null}`} {
		value, err := newClient(t, patConfig(record(t, body).URL)).GetSecret(t.Context(), "s", "k")
		require.NoError(t, err)
		require.Equal(t, []byte{}, value)
	}
}

func TestUnreadableAnswersOfTheSecretsAPI(t *testing.T) {
	t.Parallel()
	const leak = "c3VwZXItc2VjcmV0"
	everywhere := []string{"<html>" + leak + "</html>", `{"value":"` + leak, leak}
	ofReads := append([]string{"", " \n", "null", "[]", `"` + leak + `"`}, everywhere...)
	more := map[string][]string{
		opScopeList:  {`{"scopes":"` + leak + `"}`, `{"scopes":["x"]}`},
		opSecretGet:  {emptyObject, `{"value":{"a":"` + leak + `"}}`, `{"key":"k","value":"` + leak + `!"}`, `{"key":"k","value":"` + leak + `A"}`, `{"key":"k","value":"_-8="}`},
		opSecretList: {`{"secrets":{"a":"` + leak + `"}}`, `{"secrets":[{"key":"k","last_updated_timestamp":"yesterday"}]}`},
		opACLGet:     {emptyObject, `{"principal":"p"}`, `{"permission":"READ"}`, `{"principal":["` + leak + `"]}`},
		opACLList:    {`{"items":{"a":"` + leak + `"}}`},
	}
	for _, call := range secretCalls {
		bodies := everywhere
		if call.method == "GET" {
			bodies = append(ofReads, more[call.op]...)
		}
		for _, body := range bodies {
			s := newServer(t, answer(200, body))
			c := newClient(t, patConfig(s.URL))
			err := call.do(t.Context(), c)
			require.Error(t, err, "%s %q", call.op, body)
			e := failureOf(t, err)
			require.Equal(t, Unavailable.String(), e.Kind.String(), "%s %q", call.op, body)
			require.Equal(t, call.op, e.Op)
			require.Equal(t, 200, e.Status)
			require.False(t, e.Unprocessed)
			require.NotContains(t, err.Error(), leak)
			require.EqualValues(t, 1, s.requests.Load())
			require.True(t, c.LastSuccess().IsZero())
		}
	}
	value, err := newClient(t, patConfig(record(t, `{"key":"k","value":"`+leak+`!"}`).URL)).GetSecret(t.Context(), "s", "k")
	require.EqualError(t, err, "secrets/get: the answer of Databricks can't be read (HTTP 200): something in it is missing or of the wrong type")
	require.Nil(t, value, "half a secret is none")
}

func TestConcurrentPutsKeepTheirOwn(t *testing.T) {
	t.Parallel()
	w, c := simulated(t)
	require.NoError(t, c.CreateScope(t.Context(), Scope{Name: "s"}, ""))
	errs := make([]error, 64)
	var all sync.WaitGroup
	for i := range errs {
		all.Go(func() {
			errs[i] = c.PutSecretString(t.Context(), "s", fmt.Sprintf("k%d", i), Secret(strings.Repeat(fmt.Sprint(i, "."), 100)))
		})
	}
	all.Wait()
	secrets := w.Scopes()[0].Secrets
	for i := range errs {
		require.NoError(t, errs[i])
		require.Equal(t, strings.Repeat(fmt.Sprint(i, "."), 100), string(secrets[fmt.Sprintf("k%d", i)].Value))
	}
}

func BenchmarkPutSecretString(b *testing.B) {
	for _, size := range []int{32, MaxSecretValue} {
		b.Run(fmt.Sprintf("parallel/%dB", size), func(b *testing.B) {
			c := newClient(b, patConfig(newServer(b).URL))
			value := Secret(strings.Repeat("x", size))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if err := c.PutSecretString(b.Context(), "s", "k", value); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// BenchmarkRefusedPut is what it costs that an answer repeats a large value.
func BenchmarkRefusedPut(b *testing.B) {
	value := strings.Repeat("0123456789abcdef\n", MaxSecretValue/17)
	echo := "Invalid value " + base64.StdEncoding.EncodeToString([]byte(value))[:32<<10]
	b.ReportAllocs()
	for b.Loop() {
		conceal(echo, value)
	}
}
