// SPDX-License-Identifier: MPL-2.0

package simulator_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/databricks/databricks-sdk-go/apierr"
	"github.com/databricks/databricks-sdk-go/service/workspace"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

const (
	pathPut          = pathSecrets + "/put"
	pathSecretDelete = pathSecrets + "/delete"
	pathGet          = pathSecrets + "/get"
	pathSecretsList  = pathSecrets + "/list"
)

// withScope is a workspace with a scope "s" of a user who is no admin.
func withScope(t testing.TB, opts ...simulator.Option) (w *simulator.Workspace, token string) {
	t.Helper()
	w, alice, token := withAlice(t, opts...)
	w.AddScope("s", alice)
	return w, token
}

func TestSecretsThroughTheSDK(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, alice, _ := withAlice(t, simulator.WithClock(clock.Now))
	w.AddScope("s", alice)
	api := secretsOf(t, w, alice)
	binary := []byte{0, 255, 10, 13, 128}

	none, err := api.ListSecretsAll(t.Context(), workspace.ListSecretsRequest{Scope: "s"})
	require.NoError(t, err)
	require.Empty(t, none)
	require.NoError(t, api.PutSecret(t.Context(), workspace.PutSecret{Scope: "s", Key: "text", StringValue: "pässword\n"}))
	clock.advance(time.Second)
	require.NoError(t, api.PutSecret(t.Context(), workspace.PutSecret{Scope: "s", Key: "bytes", BytesValue: base64.StdEncoding.EncodeToString(binary)}))

	for key, value := range map[string]string{"text": "pässword\n", "bytes": string(binary)} {
		got, err := api.GetSecret(t.Context(), workspace.GetSecretRequest{Scope: "s", Key: key})
		require.NoError(t, err)
		require.Equal(t, key, got.Key)
		require.Equal(t, base64.StdEncoding.EncodeToString([]byte(value)), got.Value)
		require.Equal(t, value, string(w.Scopes()[0].Secrets[key].Value))
	}
	all, err := api.ListSecretsAll(t.Context(), workspace.ListSecretsRequest{Scope: "s"})
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, "bytes", all[0].Key)
	require.Equal(t, clock.Now().UnixMilli(), all[0].LastUpdatedTimestamp)
	require.Equal(t, "text", all[1].Key)
	require.Equal(t, clock.Now().UnixMilli()-1000, all[1].LastUpdatedTimestamp)

	require.NoError(t, api.DeleteSecret(t.Context(), workspace.DeleteSecret{Scope: "s", Key: "text"}))
	err = api.DeleteSecret(t.Context(), workspace.DeleteSecret{Scope: "s", Key: "text"})
	require.ErrorIs(t, err, apierr.ErrResourceDoesNotExist)
	_, err = api.GetSecret(t.Context(), workspace.GetSecretRequest{Scope: "s", Key: "text"})
	require.ErrorIs(t, err, apierr.ErrResourceDoesNotExist)
	require.ErrorContains(t, err, "Secret does not exist with scope: s and key: text")
	require.Len(t, w.Scopes()[0].Secrets, 1)
}

func TestSecretsOnTheWire(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, token := withScope(t, simulator.WithClock(clock.Now))
	requireDone(t, send(t, w, "GET", pathSecretsList+"?scope=s", token, ""))
	requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"k","string_value":"v","unknown":1}`))
	require.JSONEq(t, `{"key":"k","value":"dg=="}`, send(t, w, "GET", pathGet+"?scope=s&key=k", token, "").body)
	require.JSONEq(t, fmt.Sprintf(`{"secrets":[{"key":"k","last_updated_timestamp":%d}]}`, clock.Now().UnixMilli()),
		send(t, w, "GET", pathSecretsList+"?scope=s", token, "").body)
	requireDone(t, send(t, w, "POST", pathSecretDelete, token, `{"scope":"s","key":"k"}`))
	requireDone(t, send(t, w, "GET", pathSecretsList+"?scope=s", token, ""))
}

func TestExactlyOneValueIsPut(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	for members, stored := range map[string]string{
		``:                     "MALFORMED_REQUEST",
		`,"string_value":null`: "MALFORMED_REQUEST",
		`,"string_value":"v","bytes_value":"dg=="`:  "MALFORMED_REQUEST",
		`,"string_value":"","bytes_value":""`:       "MALFORMED_REQUEST",
		`,"string_value":1`:                         "MALFORMED_REQUEST",
		`,"bytes_value":"no base64"`:                "INVALID_PARAMETER_VALUE",
		`,"bytes_value":"dg"`:                       "INVALID_PARAMETER_VALUE",
		`,"string_value":""`:                        "",
		`,"bytes_value":""`:                         "",
		`,"string_value":null,"bytes_value":"dg=="`: "v",
		`,"string_value":"<&>\u2028 \\"`:            "<&>\u2028 \\",
	} {
		a := send(t, w, "POST", pathPut, token, `{"scope":"s","key":"k"`+members+`}`)
		if stored == "MALFORMED_REQUEST" || stored == "INVALID_PARAMETER_VALUE" {
			requireRefused(t, a, 400, stored)
			require.Empty(t, w.Scopes()[0].Secrets, members)
			continue
		}
		requireDone(t, a)
		got := send(t, w, "GET", pathGet+"?scope=s&key=k", token, "").json(t)
		require.Equal(t, map[string]any{"key": "k", "value": base64.StdEncoding.EncodeToString([]byte(stored))}, got, members)
		require.Equal(t, []byte(stored), w.Scopes()[0].Secrets["k"].Value)
		requireDone(t, send(t, w, "POST", pathSecretDelete, token, `{"scope":"s","key":"k"}`))
	}
}

func TestNamesOfKeys(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	for _, key := range []string{"", "a b", "a\\\\b", "ä", "a\\n", strings.Repeat("k", 129)} {
		requireRefused(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"`+key+`","string_value":"v"}`), 400, "INVALID_PARAMETER_VALUE")
	}
	require.Empty(t, w.Scopes()[0].Secrets)
	for _, key := range []string{"k", "-", "A.b_c-d@e9", "a/b", "/a//b/", strings.Repeat("k", 128)} {
		requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"`+key+`","string_value":"v"}`))
		require.Contains(t, w.Scopes()[0].Secrets, key)
	}
}

func TestKeysIgnoreCase(t *testing.T) {
	t.Parallel()
	for shown, opts := range map[string][]simulator.Option{"Team/DB": nil, "TEAM/db": {simulator.WithLastSpelling()}} {
		w, token := withScope(t, append(opts, simulator.WithSecretLimit(1))...)
		put := func(key, value string) {
			requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"S","key":"`+key+`","string_value":"`+value+`"}`))
		}
		put("Team/DB", "first")
		updated := w.Scopes()[0].Secrets["Team/DB"].Updated
		put("TEAM/db", "second") // overwrites, so it needs no room
		require.Len(t, w.Scopes()[0].Secrets, 1)
		require.True(t, w.Scopes()[0].Secrets[shown].Updated.After(updated))
		listed := send(t, w, "GET", pathSecretsList+"?scope=s", token, "").json(t)["secrets"].([]any)
		require.Len(t, listed, 1)
		require.Equal(t, shown, listed[0].(map[string]any)["key"])
		for _, key := range []string{"team/db", "TEAM/DB", "team%2Fdb"} {
			require.Equal(t, "c2Vjb25k", send(t, w, "GET", pathGet+"?scope=s&key="+key, token, "").json(t)["value"])
		}
		w.PutSecret("s", "team/DB", []byte("third"))
		require.Len(t, w.Scopes()[0].Secrets, 1)
		w.Restore(w.Snapshot())
		requireDone(t, send(t, w, "POST", pathSecretDelete, token, `{"scope":"s","key":"tEAM/db"}`))
		requireRefused(t, send(t, w, "POST", pathSecretDelete, token, `{"scope":"s","key":"Team/DB"}`), 404, "RESOURCE_DOES_NOT_EXIST")
		require.Empty(t, w.Scopes()[0].Secrets)
	}
}

func TestSizeOfValues(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	largest := strings.Repeat("x", 131072)
	encode := func(value string) string { return base64.StdEncoding.EncodeToString([]byte(value)) }
	requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"text","string_value":"`+largest+`"}`))
	requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"bytes","bytes_value":"`+encode(largest)+`"}`))
	for _, member := range []string{
		`"string_value":"` + largest + `x"`,
		`"string_value":"` + largest[1:] + `ä"`, // bytes count, not letters
		`"bytes_value":"` + encode(largest+"x") + `"`,
	} {
		requireRefused(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"text",`+member+`}`), 400, "INVALID_PARAMETER_VALUE")
	}
	require.Equal(t, encode(largest), send(t, w, "GET", pathGet+"?scope=s&key=text", token, "").json(t)["value"])
}

func TestSecretLimit(t *testing.T) {
	t.Parallel()
	w, token := withScope(t, simulator.WithSecretLimit(2))
	put := func(key string) answer {
		return send(t, w, "POST", pathPut, token, `{"scope":"s","key":"`+key+`","string_value":"v"}`)
	}
	requireDone(t, put("one"))
	requireDone(t, put("two"))
	requireRefused(t, put("three"), 400, "RESOURCE_LIMIT_EXCEEDED")
	requireDone(t, put("two")) // overwriting needs no room
	requireDone(t, send(t, w, "POST", pathSecretDelete, token, `{"scope":"s","key":"one"}`))
	requireDone(t, put("three"))
	w.PutSecret("s", "by hand", nil) // no limit and no rule about names
	require.Len(t, w.Scopes()[0].Secrets, 3)

	w, token = withScope(t)
	for i := range 999 {
		w.PutSecret("s", fmt.Sprint(i), nil)
	}
	requireDone(t, put("last"))
	requireRefused(t, put("more"), 400, "RESOURCE_LIMIT_EXCEEDED")
	require.Len(t, send(t, w, "GET", pathSecretsList+"?scope=s", token, "").json(t)["secrets"], 1000)
}

func TestOverwritingMovesTheTimestamp(t *testing.T) {
	t.Parallel()
	clock := newClock()
	w, token := withScope(t, simulator.WithClock(clock.Now))
	started := clock.Now().Truncate(time.Millisecond)
	put := func() time.Time {
		requireDone(t, send(t, w, "POST", pathPut, token, `{"scope":"s","key":"k","string_value":"v"}`))
		return w.Scopes()[0].Secrets["k"].Updated
	}
	require.Equal(t, started, put())
	require.Equal(t, started.Add(time.Millisecond), put()) // the clock stands still
	w.PutSecret("s", "k", nil)
	require.Equal(t, started.Add(2*time.Millisecond), w.Scopes()[0].Secrets["k"].Updated)
	clock.advance(-time.Hour)
	require.Equal(t, started.Add(3*time.Millisecond), put())
	clock.advance(2 * time.Hour)
	require.Equal(t, started.Add(time.Hour), put())
	w.PutSecret("s", "other", nil)
	require.Equal(t, started.Add(time.Hour), w.Scopes()[0].Secrets["other"].Updated)
}

func TestAbsentScopesAndKeys(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	admin, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	for _, try := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", pathPut, `{"scope":"x","key":"k","string_value":"v"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathPut, `{"key":"k","string_value":"v"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathPut, `[]`, 400, "MALFORMED_REQUEST"},
		{"POST", pathSecretDelete, `{"scope":"x","key":"k"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathSecretDelete, `{"scope":"s","key":"k"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathSecretDelete, `{"scope":"s","key":"not a name"}`, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"POST", pathSecretDelete, `{"scope":"s"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathSecretDelete, `{"key":"k"}`, 400, "INVALID_PARAMETER_VALUE"},
		{"POST", pathSecretDelete, `{`, 400, "MALFORMED_REQUEST"},
		{"GET", pathGet + "?scope=x&key=k", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathGet + "?scope=s&key=k", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathGet + "?scope=s", ``, 400, "INVALID_PARAMETER_VALUE"},
		{"GET", pathGet + "?key=k", ``, 400, "INVALID_PARAMETER_VALUE"},
		{"GET", pathSecretsList + "?scope=x", ``, 404, "RESOURCE_DOES_NOT_EXIST"},
		{"GET", pathSecretsList, ``, 400, "INVALID_PARAMETER_VALUE"},
	} {
		for _, who := range []string{token, admin} {
			requireRefused(t, send(t, w, try.method, try.path, who, try.body), try.status, try.code)
		}
	}
}

func TestRefusedReadsOfSecrets(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	admin, _ := w.AddToken(w.AddUser("root@example.com", true), "", 0)
	bob, _ := w.AddToken(w.AddUser("bob@example.com", false), "", 0)
	w.PutSecret("s", "k", []byte("v"))
	w.SetSecretReads(false)
	for _, who := range []string{token, admin} {
		for _, key := range []string{"k", "absent"} {
			a := send(t, w, "GET", pathGet+"?scope=s&key="+key, who, "")
			requireRefused(t, a, 400, "BAD_REQUEST")
			require.Contains(t, a.json(t)["message"], "notebook")
		}
	}
	requireRefused(t, send(t, w, "GET", pathGet+"?scope=s&key=k", bob, ""), 403, "PERMISSION_DENIED")
	requireRefused(t, send(t, w, "GET", pathGet+"?scope=x&key=k", token, ""), 404, "RESOURCE_DOES_NOT_EXIST")
	require.Len(t, send(t, w, "GET", pathSecretsList+"?scope=s", token, "").json(t)["secrets"], 1)
	w.SetSecretReads(true)
	require.Equal(t, "dg==", send(t, w, "GET", pathGet+"?scope=s&key=k", token, "").json(t)["value"])
}

func TestALostReplyKeepsThePutSecret(t *testing.T) {
	t.Parallel()
	w, token := withScope(t)
	w.Inject(simulator.Fault{Path: pathPut, Times: 1, AfterEffect: true, Reset: true})
	_, err := try(w, "POST", pathPut, token, `{"scope":"s","key":"k","string_value":"v"}`)
	require.Error(t, err)
	require.Equal(t, "v", string(w.Scopes()[0].Secrets["k"].Value))
}

func TestConcurrentChangesOfAScope(t *testing.T) {
	t.Parallel()
	w, token := withScope(t, simulator.WithSecretLimit(100))
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 16 {
				key := fmt.Sprintf("%d-%d", i, n)
				_, _ = try(w, "POST", pathPut, token, `{"scope":"s","key":"`+key+`","string_value":"`+key+`"}`)
				_, _ = try(w, "GET", pathGet+"?scope=s&key="+key, token, "")
				_, _ = try(w, "GET", pathSecretsList+"?scope=s", token, "")
				w.PutACL("s", "users", "READ")
				w.Scopes()
			}
		})
	}
	group.Wait()
	stored := w.Scopes()[0].Secrets
	require.Len(t, stored, 100) // of 128
	for key, secret := range stored {
		require.Equal(t, key, string(secret.Value))
	}
}

// BenchmarkSecrets shows what a put, a get, and a list cost in a scope with
// many keys.
func BenchmarkSecrets(b *testing.B) {
	w, token := withScope(b, simulator.WithoutCallLog(), simulator.WithSecretLimit(10_000))
	for i := range 5_000 {
		w.PutSecret("s", fmt.Sprint("key-", i), []byte("value"))
	}
	for name, request := range map[string][3]string{
		"put":  {"POST", pathPut, `{"scope":"s","key":"key-4999","string_value":"v"}`},
		"get":  {"GET", pathGet + "?scope=s&key=key-4999", ""},
		"list": {"GET", pathSecretsList + "?scope=s", ""},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if a := send(b, w, request[0], request[1], token, request[2]); a.status != 200 {
					b.Fatal(a.body)
				}
			}
		})
	}
}
