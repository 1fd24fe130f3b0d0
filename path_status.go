// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// keyRotatedBy is the field that says who rotates the config's credential.
const keyRotatedBy = "rotated_by"

const (
	keySummary         = "summary"
	keyIdentity        = "identity"
	keyCalls           = "calls"
	keyVerifiedTime    = "verified_time"
	keyLastSuccessTime = "last_success_time"
	keyLastErrorTime   = "last_error_time"
	keyClockOffset     = "clock_offset"
	keyClockStable     = "clock_stable"
	keySplitBrain      = "split_brain"
	keyEventsDropped   = "events_dropped"
)

func pathStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern: "status",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "status",
		},
		Fields: map[string]*framework.FieldSchema{
			keySummary: {
				Type:        framework.TypeBool,
				Description: "Leave out the maps and lists identity, calls, credentials, reasons and ends_soon, which Vault's CLI shows on one long line each. What is in identity, the reasons, and the sums of calls and credentials are in fields of their own.",
				Query:       true,
			},
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback:  on((*backend).readStatus),
				Summary:   "Read how the mount is, the engine's identity at Databricks and statistics of its calls, without making a call.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: statusFields}}},
			},
		},
		HelpSynopsis:    "The state of the mount: a verdict with reasons, the engine's identity at Databricks, and statistics.",
		HelpDescription: strings.TrimSpace(statusHelp),
	}}
}

var statusFields = func() map[string]*framework.FieldSchema {
	fields := map[string]*framework.FieldSchema{
		"configured":        {Type: framework.TypeBool, Required: true, Description: "Whether the mount has a connection."},
		"plugin_version":    {Type: framework.TypeString, Required: true, Description: "Version of the plugin."},
		"mount_id":          {Type: framework.TypeString, Required: true, Description: "The id in the comments of everything that this mount creates."},
		keyLastError:        {Type: framework.TypeString, Required: true, Description: "The latest call to Databricks that failed since the plugin started on this node, and why; empty for none. What is refused without a call doesn't count, nor that something to be read or deleted does not exist."},
		keyLastErrorTime:    {Type: framework.TypeString, Required: true, Description: "When it failed, RFC 3339; null for none."},
		"calls_total":       {Type: framework.TypeInt64, Required: true, Description: "Calls to Databricks since the plugin started on this node."},
		"calls_failed":      {Type: framework.TypeInt64, Required: true, Description: "How many of them failed in the end."},
		"calls_retried":     {Type: framework.TypeInt64, Required: true, Description: "Attempts beyond the first of each call."},
		"calls_throttled":   {Type: framework.TypeInt64, Required: true, Description: "Answers that asked to slow down."},
		keyEventsDropped:    {Type: framework.TypeInt64, Required: true, Description: fmt.Sprintf("Events that Vault's event bus did not get since the plugin started on this node: more than %d were waiting, or sending one failed.", maxEvents)},
		keyHost:             {Type: framework.TypeString, Description: "Origin of the workspace."},
		keyAuthType:         {Type: framework.TypeString, Description: "How the engine authenticates."},
		keyWorkspaceID:      {Type: framework.TypeString, Description: "Id of the workspace, as Databricks says."},
		"user_id":           {Type: framework.TypeString, Description: "Id of the user or service principal that the engine is at Databricks; null when it was never asked, as are the next ones."},
		"user_name":         {Type: framework.TypeString, Description: "Its user name or application id."},
		"user_display_name": {Type: framework.TypeString, Description: "Its display name."},
		"service_principal": {Type: framework.TypeBool, Description: "Whether it is a service principal."},
		"admin":             {Type: framework.TypeBool, Description: "Whether it is a workspace admin."},
		keyIdentity:         {Type: framework.TypeMap, Description: "The same in one map: id, user_name, display_name, service_principal, admin. Absent with summary=true."},
		keyVerifiedTime:     {Type: framework.TypeString, Description: "When the config was last verified by asking Databricks, RFC 3339; null for never."},
		keyLastSuccessTime:  {Type: framework.TypeString, Description: "When Databricks last accepted a call since the connection was made on this node, RFC 3339; null for never."},
		keyExpiryTime:       {Type: framework.TypeString, Description: "When the credential ends at Databricks if it is not replaced, RFC 3339; null for never, and where it isn't known."},
		keyRetainedHost:     {Type: framework.TypeString, Description: "Where a config that was deleted connects to, which is retained for nothing but revocations and rollback. Absent where none is."},
		keyRetainedError:    {Type: framework.TypeString, Description: "Why a config that was deleted can't be used, though it is retained. Absent where it can."},
		keyRetainedUntil:    {Type: framework.TypeString, Description: "Until when it is retained, RFC 3339."},
		keyLastRotation:     {Type: framework.TypeString, Description: "When Vault last replaced the credential, RFC 3339; null for never."},
		keyNextRotation:     {Type: framework.TypeString, Description: "When Vault will next replace it, RFC 3339; null for never."},
		keyRotationFailures: {Type: framework.TypeInt, Description: "Attempts to replace it that failed since then, one after the other."},
		keyRotationError:    {Type: framework.TypeString, Description: "Why the last of them failed; empty when none did."},
		keyRotationRetry:    {Type: framework.TypeString, Description: "When the next attempt is made after a failure, RFC 3339; null for none."},
		keyPendingError:     {Type: framework.TypeString, Description: "Why a credential that was replaced could not be removed yet; empty for nothing."},
		keyPendingAttempt:   {Type: framework.TypeString, Description: "When that is tried again, RFC 3339; null for never."},
		keyRotatedBy:        {Type: framework.TypeString, Description: "Who follows the rotation schedule: engine, vault for its rotation manager, or nobody."},
		keyClockOffset:      {Type: framework.TypeFloat, Description: "By how many seconds Databricks' clock is ahead of Vault's; null until an answer has told it."},
		keyClockStable:      {Type: framework.TypeBool, Description: "Whether the latest answers agree about clock_offset."},
		keySplitBrain:       {Type: framework.TypeString, Description: "Why rotation, tidy and rollback have stopped: another Vault uses the mount as well. Empty when none was found."},
		keyCalls:            {Type: framework.TypeMap, Description: "By operation, since the plugin started on this node: calls, errors, retries, throttled, mean_ms and max_ms. Absent with summary=true."},
	}
	maps.Copy(fields, verdictFields)
	for _, field := range []string{keyLastRotation, keyNextRotation, keyRotationRetry, keyPendingAttempt} {
		fields[field+timeSuffix] = rotationTimeField(field)
	}
	return fields
}()

func (b *backend) readStatus(ctx context.Context, req *logical.Request, data *framework.FieldData) (*logical.Response, error) {
	status := map[string]any{
		"configured":     false,
		"plugin_version": Version,
		"mount_id":       b.mountID,
	}
	b.addCalls(status)
	status[keyEventsDropped], _ = b.events.droppedSoFar()
	var config *configEntry
	conn, err := b.connection(ctx, req.Storage)
	switch {
	case errors.Is(err, errNotConfigured):
		conn = nil
		if err := b.addRetained(ctx, req.Storage, status); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		status["configured"] = true
		b.addConnection(status, conn)
		// A rotation may have changed the stored config since the connection was created.
		config, err = readConfig(ctx, req.Storage)
		if err != nil {
			return nil, err
		}
		if config != nil {
			b.refreshNextRotation(ctx, config)
			config.rotationView().addTo(status)
			status[keyRotatedBy] = config.rotatedBy()
			status[keyExpiryTime] = timeOrNull(config.Rotation.Credential.Expires)
		}
	}
	if err := b.addVerdict(ctx, req, status, conn, config); err != nil {
		return nil, err
	}
	if data.Get(keySummary).(bool) {
		for _, field := range statusMaps {
			delete(status, field)
		}
	}
	return &logical.Response{Data: status}, nil
}

// addCalls shows how the calls to Databricks went.
func (b *backend) addCalls(status map[string]any) {
	var total, failed, retried, throttled int64
	calls := map[string]any{}
	for op, n := range b.counters.Snapshot() {
		total, failed, retried, throttled = total+n.Calls, failed+n.Errors, retried+n.Retries, throttled+n.Throttled
		calls[op] = map[string]any{
			"calls":     n.Calls,
			"errors":    n.Errors,
			"retries":   n.Retries,
			"throttled": n.Throttled,
			"mean_ms":   milliseconds(n.Mean),
			"max_ms":    milliseconds(n.Max),
		}
	}
	status[keyCalls] = calls
	status["calls_total"], status["calls_failed"], status["calls_retried"], status["calls_throttled"] = total, failed, retried, throttled
	last := b.counters.LastFailure()
	status[keyLastError], status[keyLastErrorTime] = last.Text, timeOrNull(last.Time)
}

// addConnection shows what the connection leads to, as whom, and how it is.
func (b *backend) addConnection(status map[string]any, conn *connection) {
	clock := conn.client.Clock()
	status[keyClockOffset], status[keyClockStable] = nil, clock.Stable
	if clock.Known {
		status[keyClockOffset] = milliseconds(clock.Offset) / 1000
	}
	status[keySplitBrain] = ""
	if found := b.splitBrain.Load(); found != nil {
		status[keySplitBrain] = found.Error()
	}
	status[keyHost] = conn.config.Host
	status[keyAuthType] = conn.config.AuthType
	status[keyWorkspaceID] = conn.config.WorkspaceID
	status[keyVerifiedTime] = timeOrNull(conn.config.Verified)
	status[keyLastSuccessTime] = timeOrNull(conn.client.LastSuccess())
	for _, field := range []string{keyIdentity, "user_id", "user_name", "user_display_name", "service_principal", "admin"} {
		status[field] = nil
	}
	who := conn.cachedIdentity()
	if who == nil {
		return
	}
	status[keyWorkspaceID] = who.WorkspaceID
	status["user_id"], status["user_name"], status["user_display_name"] = who.ID, who.UserName, who.DisplayName
	status["service_principal"], status["admin"] = who.ServicePrincipal, who.Admin
	status[keyIdentity] = map[string]any{
		"id":                who.ID,
		"user_name":         who.UserName,
		"display_name":      who.DisplayName,
		"service_principal": who.ServicePrincipal,
		"admin":             who.Admin,
	}
}

// rotatedBy returns who rotates the credential on schedule.
func (c *configEntry) rotatedBy() string {
	switch {
	case !c.effectiveSchedule().Automatic():
		return "nobody"
	case c.Rotation.Managed:
		return "vault"
	default:
		return "engine"
	}
}

// milliseconds returns d in milliseconds, with three decimals.
func milliseconds(d time.Duration) float64 {
	return float64(d.Microseconds()) / 1000
}

const statusHelp = `
Reports how the mount is: verdict is ok, degraded or failing, and verdict_text says why
and what to do. Further, who the engine is at Databricks, over which auth type, when
that was last verified, what it minted and revoked, how its calls went and which of
them failed last, what ends soon, and how many tokens its identity has. Reading it
makes no call to Databricks.

  vault read databricks/status summary=true
  vault read -field=verdict databricks/status
  vault read -format=json databricks/status

What is counted is counted since since_time, when the plugin started, on the node that
answers: performance standbys and other clusters have counts of their own. Only a node
with background_work rotates and tidies.

The identity, the counts of each operation and credential type, the reasons and what
ends soon are maps or lists; the CLI shows each on one long line, so summary=true
leaves them out. Events are sent to Vault's event bus beside the requests that they
tell of; events_dropped counts those that it did not get.
`
