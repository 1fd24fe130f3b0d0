// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

// keyRotatedBy is the field that says who rotates the config's credential.
const keyRotatedBy = "rotated_by"

func (b *backend) pathStatus() []*framework.Path {
	return []*framework.Path{{
		Pattern: "status",
		DisplayAttrs: &framework.DisplayAttributes{
			OperationPrefix: "databricks",
			OperationSuffix: "status",
		},
		Operations: map[logical.Operation]framework.OperationHandler{
			logical.ReadOperation: &framework.PathOperation{
				Callback: b.readStatus,
				Summary:  "Read the engine's identity at Databricks and statistics of its calls, without making a call.",
				Responses: map[int][]framework.Response{http.StatusOK: {{Description: "OK", Fields: map[string]*framework.FieldSchema{
					"configured":                   {Type: framework.TypeBool, Required: true, Description: "Whether the mount has a connection."},
					"plugin_version":               {Type: framework.TypeString, Required: true, Description: "Version of the plugin."},
					"mount_id":                     {Type: framework.TypeString, Required: true, Description: "The id in the comments of everything that this mount creates."},
					keyHost:                        {Type: framework.TypeString, Description: "Origin of the workspace."},
					keyAuthType:                    {Type: framework.TypeString, Description: "How the engine authenticates."},
					keyWorkspaceID:                 {Type: framework.TypeString, Description: "Id of the workspace, as Databricks says."},
					"identity":                     {Type: framework.TypeMap, Description: "Who the engine is: id, user_name, display_name, service_principal, admin. Null when it was never asked."},
					"verified_time":                {Type: framework.TypeString, Description: "When the config was last verified by asking Databricks, RFC 3339; empty for never."},
					"last_success_time":            {Type: framework.TypeString, Description: "When Databricks last accepted a call since the connection was made on this node, RFC 3339; empty for never."},
					keyExpiryTime:                  {Type: framework.TypeString, Description: "When the credential ends at Databricks if it is not replaced, RFC 3339; null for never, and where it isn't known."},
					keyLastRotation:                {Type: framework.TypeString, Description: "When Vault last replaced the credential, RFC 3339; null for never."},
					keyNextRotation:                {Type: framework.TypeString, Description: "When Vault will next replace it, RFC 3339; null for never."},
					keyRotationFailures:            {Type: framework.TypeInt, Description: "Attempts to replace it that failed since then, one after the other."},
					keyRotationError:               {Type: framework.TypeString, Description: "Why the last of them failed; empty when none did."},
					keyRotationRetry:               {Type: framework.TypeString, Description: "When the next attempt is made after a failure, RFC 3339; null for none."},
					keyPendingError:                {Type: framework.TypeString, Description: "Why a credential that was replaced could not be removed yet; empty for nothing."},
					keyPendingAttempt:              {Type: framework.TypeString, Description: "When that is tried again, RFC 3339; null for never."},
					keyRotatedBy:                   {Type: framework.TypeString, Description: "Who follows the rotation schedule: engine, vault for its rotation manager, or nobody."},
					"clock_offset":                 {Type: framework.TypeFloat, Description: "By how many seconds Databricks' clock is ahead of Vault's; null until an answer has told it."},
					"clock_stable":                 {Type: framework.TypeBool, Description: "Whether the latest answers agree about clock_offset."},
					"split_brain":                  {Type: framework.TypeString, Description: "Why rotation, tidy and rollback have stopped: another Vault uses the mount as well. Empty when none was found."},
					keyLastRotation + timeSuffix:   rotationTimeField(keyLastRotation),
					keyNextRotation + timeSuffix:   rotationTimeField(keyNextRotation),
					keyRotationRetry + timeSuffix:  rotationTimeField(keyRotationRetry),
					keyPendingAttempt + timeSuffix: rotationTimeField(keyPendingAttempt),
					keyRetainedHost:                {Type: framework.TypeString, Description: "Where a config that was deleted connects to, which is retained for nothing but revocations and rollback. Absent where none is."},
					keyRetainedUntil:               {Type: framework.TypeString, Description: "Until when it is retained, RFC 3339."},
					"calls":                        {Type: framework.TypeMap, Required: true, Description: "By operation, since the plugin started on this node: calls, errors, retries, throttled, mean_ms and max_ms."},
				}}}},
			},
		},
		HelpSynopsis:    "The engine's identity at Databricks, and statistics of its calls.",
		HelpDescription: strings.TrimSpace(statusHelp),
	}}
}

func (b *backend) readStatus(ctx context.Context, req *logical.Request, _ *framework.FieldData) (*logical.Response, error) {
	calls := map[string]any{}
	for op, n := range b.counters.Snapshot() {
		calls[op] = map[string]any{
			"calls":     n.Calls,
			"errors":    n.Errors,
			"retries":   n.Retries,
			"throttled": n.Throttled,
			"mean_ms":   milliseconds(n.Mean),
			"max_ms":    milliseconds(n.Max),
		}
	}
	status := map[string]any{
		"configured":     false,
		"plugin_version": Version,
		"mount_id":       b.mountID,
		"calls":          calls,
	}
	conn, err := b.connection(ctx, req.Storage)
	if errors.Is(err, errNotConfigured) {
		return &logical.Response{Data: status}, b.addRetained(ctx, req.Storage, status)
	}
	if err != nil {
		return nil, err
	}

	status["configured"] = true
	clock := conn.client.Clock()
	status["clock_offset"], status["clock_stable"] = nil, clock.Stable
	if clock.Known {
		status["clock_offset"] = milliseconds(clock.Offset) / 1000
	}
	status["split_brain"] = ""
	if found := b.splitBrain.Load(); found != nil {
		status["split_brain"] = found.Error()
	}
	status[keyHost] = conn.config.Host
	status[keyAuthType] = conn.config.AuthType
	status[keyWorkspaceID] = conn.config.WorkspaceID
	status["identity"] = nil
	if who := conn.cachedIdentity(); who != nil {
		status[keyWorkspaceID] = who.WorkspaceID
		status["identity"] = map[string]any{
			"id":                who.ID,
			"user_name":         who.UserName,
			"display_name":      who.DisplayName,
			"service_principal": who.ServicePrincipal,
			"admin":             who.Admin,
		}
	}
	status["verified_time"] = rfc3339(conn.config.Verified)
	status["last_success_time"] = rfc3339(conn.client.LastSuccess())
	// A rotation may have changed the stored config since the connection was created.
	config, err := readConfig(ctx, req.Storage)
	if err != nil {
		return nil, err
	}
	if config != nil {
		b.refreshNextRotation(ctx, config)
		config.rotationView().addTo(status)
		status[keyRotatedBy] = config.rotatedBy()
		status[keyExpiryTime] = nil
		if end := config.Rotation.Credential.Expires; !end.IsZero() {
			status[keyExpiryTime] = rfc3339(end)
		}
	}
	return &logical.Response{Data: status}, nil
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
Reports who the engine is at Databricks, over which auth type, when that was last
verified, and how its calls went on this node. Reading it makes no call.

  vault read databricks/status
`
