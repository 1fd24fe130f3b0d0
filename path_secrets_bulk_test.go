// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/sdk/logical"
	"github.com/stretchr/testify/require"

	"vault-plugin-secrets-databricks/internal/simulator"
)

// pushOfKeys is a bulk write of n keys, whose values carry the word.
func pushOfKeys(n int, word string, more ...map[string]any) map[string]any {
	values := make(map[string]any, n)
	for i := range n {
		values[fmt.Sprintf("key-%04d", i)] = fmt.Sprintf("canary-%s-%04d", word, i)
	}
	data := map[string]any{"secrets": values}
	for _, fields := range more {
		maps.Copy(data, fields)
	}
	return data
}

func sortedKeys(data map[string]any) []string {
	return slices.Sorted(maps.Keys(data["secrets"].(map[string]any)))
}

// holds requires that the scope has exactly what was pushed.
func (m *mount) holds(scope string, data map[string]any) {
	m.t.Helper()
	got := map[string]any{}
	for key, secret := range m.scope(scope).Secrets {
		got[key] = string(secret.Value)
	}
	require.Equal(m.t, data["secrets"], got)
}

func TestPush(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "surplus", []byte("v"))
	m.workspace.PutSecret("etl", "key-0000", []byte("old"))

	data := pushOfKeys(999, "first")
	resp := m.write("secrets/etl", data)
	require.Equal(t, sortedKeys(data), resp.Data["written"])
	require.Equal(t, []string{}, resp.Data["deleted"])
	require.Equal(t, 999, m.workspace.Count("", secretPutPath))
	require.Zero(t, m.workspace.Count("", secretListPath), "a push that prunes nothing has no need to list")
	require.Len(t, m.scope("etl").Secrets, 1000)

	data = pushOfKeys(1000, "second")
	resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
	m.refused(resp, err, "1 of 1000 keys failed, 999 were written and 0 deleted; write the same again to finish. Failed: key-0999: scope", "as many secrets as a scope can have")
	resp, err = m.do(logical.DeleteOperation, "secrets/etl/surplus", nil)
	m.requireOK(resp, err)
	resp = m.write("secrets/etl/", data)
	require.Len(t, resp.Data["written"], 1000)
	m.holds("etl", data)

	log := m.log.String()
	require.Contains(t, log, "pushed secrets: scope=etl written=1000 of=1000")
	require.NotContains(t, log, "key-0")
	for _, event := range m.sent() {
		require.NotContains(t, fmt.Sprint(event.Event.GetMetadata().AsMap()), "key-0")
	}
}

func TestPushPrunes(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for _, key := range []string{"b-surplus", "a-surplus", "KEY-0001"} {
		m.workspace.PutSecret("etl", key, []byte("v"))
	}
	data := pushOfKeys(3, "pruned", map[string]any{"prune": true, "dry_run": true})
	want := map[string]any{"written": []string{"key-0000", "key-0001", "key-0002"}, "deleted": []string{"a-surplus", "b-surplus"}, "kept": []string{}}
	before := m.workspace.Scopes()
	require.Equal(t, want, m.write("secrets/etl", data).Data)
	require.Equal(t, before, m.workspace.Scopes(), "a dry run changes nothing")
	delete(data, "prune")
	require.Equal(t, []string{}, m.write("secrets/etl", data).Data["deleted"])
	require.Equal(t, before, m.workspace.Scopes())

	delete(data, "dry_run")
	data["prune"] = true
	require.Equal(t, want, m.write("secrets/etl", data).Data)
	require.Equal(t, []string{"KEY-0001", "key-0000", "key-0002"}, slices.Sorted(maps.Keys(m.scope("etl").Secrets)),
		"Databricks ignores the case of keys, so another spelling of a key that was sent is no surplus")

	m.workspace.PutSecret("etl", "late", []byte("v"))
	m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST", AfterEffect: true})
	require.Equal(t, []string{"late"}, m.write("secrets/etl", data).Data["deleted"], "that it is gone already is success")
}

// TestPushPrunesToMakeRoom replaces what a full scope holds.
func TestPushPrunesToMakeRoom(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	for i := range 1000 {
		m.workspace.PutSecret("etl", fmt.Sprintf("surplus-%04d", i), nil)
	}
	data := pushOfKeys(100, "room", map[string]any{"prune": true})
	resp := m.write("secrets/etl", data)
	require.Len(t, resp.Data["written"], 100)
	require.Len(t, resp.Data["deleted"], 1000)
	m.holds("etl", data)
}

func TestPushBothMaps(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	resp := m.write("secrets/etl", map[string]any{
		"secrets": map[string]any{"text": "schlüssel-canary", "empty": ""},
		"bytes":   map[string]any{"raw": base64.StdEncoding.EncodeToString(allBytes())},
	})
	require.Equal(t, []string{"empty", "raw", "text"}, resp.Data["written"])
	secrets := m.scope("etl").Secrets
	require.Equal(t, allBytes(), secrets["raw"].Value)
	require.Equal(t, "schlüssel-canary", string(secrets["text"].Value))
	require.Empty(t, secrets["empty"].Value)
}

func TestPushRefusesBadInput(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "there", []byte("v"))
	type maps = map[string]any
	for name, row := range map[string]struct {
		data  map[string]any
		words []string
	}{
		"nothing":            {nil, []string{"secrets: is missing"}},
		"empty maps":         {maps{"secrets": maps{}, "bytes": maps{}}, []string{"secrets: is missing"}},
		"a list of keys":     {maps{"secrets": "a,b"}, []string{"secrets"}},
		"prune nothing":      {maps{"prune": true}, []string{"prune: with no secrets sent it would empty the scope"}},
		"prune an empty map": {maps{"secrets": maps{}, "prune": true}, []string{"prune: with no secrets sent"}},
		"one too many":       {pushOfKeys(1001, "many"), []string{"1001 keys were sent", "at most 1000"}},
		"in both":            {maps{"secrets": maps{"k": "canary-1"}, "bytes": maps{"k": "Y2FuYXJ5LTI="}}, []string{`"k" is in both secrets and bytes`}},
		"in two spellings":   {maps{"secrets": maps{"k": "canary-1", "K": "canary-2"}}, []string{`"K" and "k" are two spellings`, "send it once"}},
		"spelled in both":    {maps{"secrets": maps{"k": "canary-1"}, "bytes": maps{"K": "Y2FuYXJ5LTI="}}, []string{`"K" and "k" are two spellings`}},
		"a number":           {maps{"secrets": maps{"k": 77777777}}, []string{`secrets: the value of "k" is a number`, "send a string"}},
		"a null":             {maps{"secrets": maps{"k": nil}}, []string{`secrets: the value of "k" is null`, "send a string"}},
		"a map":              {maps{"secrets": maps{"k": maps{"v": "canary-nested"}}}, []string{`secrets: the value of "k" is an object`, "send a string"}},
		"no base64":          {maps{"bytes": maps{"k": "canary of no base64"}}, []string{`bytes: "k": is not base64`}},
		"no UTF-8":           {maps{"secrets": maps{"k": "canary\xff\xff"}}, []string{"secrets: ", "U+FFFD", "bytes"}},
		"too long":           {maps{"secrets": maps{"ok": "canary-ok", "k": strings.Repeat("canary-x", 1<<14) + "x"}}, []string{`secrets: "k": has 131073 bytes`}},
		"a dot":              {maps{"secrets": maps{".": "canary-1"}}, []string{"secrets: a key of 1 characters is no valid name", `not "." or ".."`}},
		"two dots":           {maps{"bytes": maps{"..": "Y2FuYXJ5LTI="}}, []string{"bytes: a key of 2 characters is no valid name"}},
		"a bad key":          {maps{"bytes": maps{"a b": "Y2FuYXJ5LTI="}}, []string{"bytes: a key of 3 characters is no valid name"}},
	} {
		t.Run(name, func(t *testing.T) {
			m.canaries.add("canary-nested", "77777777")
			m.workspace.ResetCalls()
			resp, err := m.do(logical.UpdateOperation, "secrets/etl", row.data)
			got := m.failure(resp, err)
			for _, word := range row.words {
				require.ErrorContains(t, got, word)
			}
			require.Empty(t, m.workspace.Calls(), "all is checked before anything is sent")
		})
	}
	require.Len(t, m.scope("etl").Secrets, 1)
}

// TestPushFailsInPart lets some keys fail: the rest is done, the answer says which and why, and a repetition finishes it.
func TestPushFailsInPart(t *testing.T) {
	t.Parallel()

	t.Run("a put is refused", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.workspace.PutSecret("etl", "surplus", []byte("v"))
		m.workspace.Inject(simulator.Fault{Path: secretPutPath, Offset: 10, Times: 2, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE", Message: "not this one"})
		data := pushOfKeys(40, "parts", map[string]any{"prune": true})
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		m.refused(resp, err, "2 of 41 keys failed, 38 were written and 0 deleted; write the same again to finish", "not this one")
		message := resp.Error().Error()
		require.Equal(t, 1, strings.Count(message, "not this one"), "each reason is told once")
		secrets := m.scope("etl").Secrets
		require.Len(t, secrets, 39)
		require.Contains(t, secrets, "surplus", "nothing is deleted before all is stored")
		for _, key := range sortedKeys(data) {
			require.NotEqual(t, strings.Contains(message, key), strings.HasPrefix(string(secrets[key].Value), "canary"), key)
		}
		resp = m.write("secrets/etl", data)
		require.Len(t, resp.Data["written"], 40)
		require.Equal(t, []string{"surplus"}, resp.Data["deleted"])
		m.holds("etl", data)
	})

	t.Run("for two reasons", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		m.impatient()
		m.workspace.Inject(simulator.Fault{Path: secretPutPath, Times: 1, Status: 400, ErrorCode: "INVALID_PARAMETER_VALUE"})
		m.workspace.Inject(simulator.Fault{Path: secretPutPath, Times: 3, AfterEffect: true, Reset: true})
		data := pushOfKeys(30, "reasons")
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		got := m.failure(resp, err)
		require.ErrorContains(t, got, "4 of 30 keys failed, 26 were written")
		require.ErrorContains(t, got, "INVALID_PARAMETER_VALUE")
		require.Len(t, m.scope("etl").Secrets, 29, "those whose answer was lost are there")
		m.write("secrets/etl", data)
		m.holds("etl", data)
	})

	t.Run("a delete is refused", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		for i := range 5 {
			m.workspace.PutSecret("etl", fmt.Sprintf("surplus-%d", i), []byte("v"))
		}
		m.workspace.Inject(simulator.Fault{Path: secretDeletePath, Times: 1, Status: 400, ErrorCode: "BAD_REQUEST"})
		data := pushOfKeys(3, "deletes", map[string]any{"prune": true})
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		m.refused(resp, err, "1 of 8 keys failed, 3 were written and 4 deleted", "surplus-", "BAD_REQUEST")
		require.Len(t, m.write("secrets/etl", data).Data["deleted"], 1)
		m.holds("etl", data)
	})

	t.Run("the engine breaks on a key", func(t *testing.T) {
		t.Parallel()
		m := withScope(t)
		data := pushOfKeys(20, "panic")
		broken := make(chan bool, 1)
		m.storage.onEach(func(op, key string) error {
			if op == "list" {
				select {
				case broken <- true:
					panic("canary-panic-0000")
				default:
				}
			}
			return nil
		})
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
		require.ErrorContains(t, m.failure(resp, err), "1 of 20 keys failed, 19 were written")
		require.ErrorContains(t, m.failure(resp, err), "the engine failed on this key")
		m.write("secrets/etl", data)
		m.holds("etl", data)
	})
}

// TestPushStopsWhenHopeless shows that a refusal which every key would meet is met a few times only.
func TestPushStopsWhenHopeless(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault simulator.Fault
		words []string
	}{
		"no permission": {simulator.Fault{Status: 403, ErrorCode: "PERMISSION_DENIED"}, []string{"needs WRITE"}},
		"no scope":      {simulator.Fault{Status: 404, ErrorCode: "RESOURCE_DOES_NOT_EXIST"}, []string{"there is no scope"}},
		"token dead":    {simulator.Fault{Status: 403, Body: `{"error_code":403,"message":"Invalid access token."}`}, []string{"check that the credential in the config exists"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := withScope(t)
			row.fault.Path = secretPutPath
			m.workspace.Inject(row.fault)
			data := pushOfKeys(500, "hopeless")
			resp, err := m.do(logical.UpdateOperation, "secrets/etl", data)
			m.refused(resp, err, append(row.words, "500 of 500 keys failed, 0 were written", "key-0000", "key-0499")...)
			require.LessOrEqual(t, m.workspace.Count("", secretPutPath), 3*bulkConcurrency)
			require.NotContains(t, resp.Error().Error(), "gave up", "the reason is what stopped it")
			require.NotContains(t, resp.Error().Error(), "canceled")
		})
	}
}

func TestPushCancelled(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.PutSecret("etl", "surplus", []byte("v"))
	data := pushOfKeys(200, "cancelled", map[string]any{"prune": true})
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Offset: 50, Hold: hold})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		resp, err := m.send(ctx, logical.UpdateOperation, "secrets/etl", data)
		if err == nil {
			err = resp.Error()
		}
		failed <- err
	}()
	require.Eventually(t, func() bool { return fault.Hits() == bulkConcurrency }, 10*time.Second, time.Millisecond)
	cancel()
	err := <-failed
	require.ErrorContains(t, err, "150 of 201 keys failed, 50 were written and 0 deleted")
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 50+bulkConcurrency, m.workspace.Count("", secretPutPath), "nothing is sent any more")
	require.Contains(t, m.scope("etl").Secrets, "surplus")
	close(hold)
	fault.Clear()
	m.write("secrets/etl", data)
	m.holds("etl", data)

	_, err = m.send(ctx, logical.UpdateOperation, "secrets/etl", pushOfKeys(1, "late"))
	require.Error(t, err)
	m.holds("etl", data)
}

// TestPushIsBounded holds puts up: no more than a few are ever on their way, and the log tells how far it is.
func TestPushIsBounded(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	hold := make(chan struct{})
	fault := m.workspace.Inject(simulator.Fault{Path: secretPutPath, Offset: 7, Hold: hold})
	done := make(chan error)
	go func() {
		resp, err := m.do(logical.UpdateOperation, "secrets/etl", pushOfKeys(100, "bounded"))
		if err == nil {
			err = resp.Error()
		}
		done <- err
	}()
	require.Eventually(t, func() bool { return strings.Contains(m.log.String(), "pushing secrets: scope=etl written=7 of=100") }, 3*bulkProgress, 10*time.Millisecond)
	require.Equal(t, bulkConcurrency, fault.Hits())
	close(hold)
	require.NoError(t, <-done)
	require.Len(t, m.scope("etl").Secrets, 100)
}

func TestPushKeepsTheRate(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.write("config", map[string]any{"rate_limit": 200})
	m.workspace.ResetCalls()
	m.write("secrets/etl", pushOfKeys(60, "rate"))
	calls := m.workspace.Calls()
	require.Len(t, calls, 60)
	require.GreaterOrEqual(t, calls[59].Time.Sub(calls[0].Time), 59*time.Second/200-50*time.Millisecond)
}

func TestPushThrottled(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Every: 20, Times: 4, Status: http.StatusTooManyRequests})
	data := pushOfKeys(100, "throttled")
	m.write("secrets/etl", data)
	m.holds("etl", data)
	require.Equal(t, 104, m.workspace.Count("", secretPutPath))

	m.workspace.Inject(simulator.Fault{Path: secretPutPath, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3600"}}})
	resp, err := m.do(logical.UpdateOperation, "secrets/etl", pushOfKeys(1, "for-long"))
	m.coded(http.StatusTooManyRequests, resp, err, "1 of 1 keys failed")
}

func TestPushWithBrokenStorage(t *testing.T) {
	t.Parallel()
	m := withScope(t)
	m.storage.onEach(func(op, key string) error {
		if op == "list" {
			return errors.New("disk full")
		}
		return nil
	})
	_, err := m.do(logical.UpdateOperation, "secrets/etl", pushOfKeys(3, "broken"))
	require.ErrorContains(t, err, "3 of 3 keys failed")
	require.ErrorContains(t, err, "disk full")
	_, err = m.do(logical.UpdateOperation, "secrets/etl/k", map[string]any{"string_value": "canary-value"})
	require.ErrorContains(t, err, "disk full")
	require.Empty(t, m.scope("etl").Secrets, "what the log has of earlier writes must be known before one")
}
