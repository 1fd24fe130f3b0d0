// SPDX-License-Identifier: MPL-2.0

package databricks

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"

	"vault-plugin-secrets-databricks/internal/credential"
)

const (
	keyVerdict     = "verdict"
	keyVerdictText = "verdict_text"
	keyReasons     = "reasons"
	keySinceTime   = "since_time"
	keyBackground  = "background_work"

	keyCredentials        = "credentials"
	keyCredentialsMinted  = "credentials_minted"
	keyCredentialsLive    = "credentials_minted_still_live"
	keyCredentialsRevoked = "credentials_revoked"
	keyMintFailures       = "credentials_mint_failures"
	keyRevokeFailures     = "credentials_revoke_failures"

	keyRecordedLeases = "recorded_leases"
	keyUndoFailing    = "undo_failing"
	keyUndoError      = "undo_error"

	keyTokensUsed     = "tokens_used"
	keyTokensQuota    = "tokens_quota"
	keyTokensSeenTime = "tokens_seen_time"

	keyEndsSoon = "ends_soon"
)

// statusMaps are the fields that summary=true leaves out.
var statusMaps = []string{keyIdentity, keyCalls, keyCredentials, keyReasons, keyEndsSoon}

// verdictFields are the fields of status that say how the mount is.
var verdictFields = map[string]*framework.FieldSchema{
	keyVerdict:     {Type: framework.TypeString, Required: true, Description: "ok, degraded (clients get what they ask for, but something needs an operator) or failing (they get nothing, or what they have works no more). As this node knows, without asking Databricks: an idle mount does not notice an outage."},
	keyVerdictText: {Type: framework.TypeString, Required: true, Description: "The reasons, the worst first, and what to do; empty for ok."},
	keyReasons:     {Type: framework.TypeSlice, Description: "The same as a list of maps with reason, severity, text and advice. Absent with summary=true."},
	keySinceTime:   {Type: framework.TypeString, Required: true, Description: "When the plugin started on this node, RFC 3339. What is counted is counted since then, and on this node alone."},
	keyBackground:  {Type: framework.TypeBool, Required: true, Description: "Whether this node rotates and tidies. Standbys and performance secondaries don't; what they know of that may be old."},

	keyCredentials:        {Type: framework.TypeMap, Description: "By credential type: minted, minted_still_live, revoked, mint_failures and revoke_failures. Absent with summary=true, which has their sums."},
	keyCredentialsMinted:  {Type: framework.TypeInt64, Required: true, Description: "Credentials minted since since_time."},
	keyCredentialsLive:    {Type: framework.TypeInt64, Required: true, Description: "How many of those were neither revoked by their lease nor have ended by themselves. Leases from before since_time are not among them: Vault tells a plugin of no leases. For all leases of a role: vault list sys/leases/lookup/databricks/creds/<role>."},
	keyCredentialsRevoked: {Type: framework.TypeInt64, Required: true, Description: "Credentials revoked since since_time, whenever they were minted."},
	keyMintFailures:       {Type: framework.TypeInt64, Required: true, Description: "Mints that failed since then, mistakes of the caller excepted."},
	keyRevokeFailures:     {Type: framework.TypeInt64, Required: true, Description: "Attempts to revoke a credential that failed since then. Vault repeats them."},

	keyRecordedLeases: {Type: framework.TypeInt, Required: true, Description: "Open leases of secrets, permissions and delivered copies, by the engine's own records, whenever they were made; null where this node has not read them."},
	keyUndoFailing:    {Type: framework.TypeInt, Required: true, Description: "Entries of the write-ahead log of which something could not be undone yet; null where this node has not read them."},
	keyUndoError:      {Type: framework.TypeString, Required: true, Description: "Why, of the one that is due for the longest time; empty for none."},

	keyTokensUsed:     {Type: framework.TypeInt, Description: "Personal access tokens that the engine's identity has, at least: as many as Databricks listed at tokens_seen_time, or as are live of those that were minted here, whichever is more. Null where neither is known."},
	keyTokensQuota:    {Type: framework.TypeInt, Description: "How many it can have in a workspace."},
	keyTokensSeenTime: {Type: framework.TypeString, Description: "When Databricks last listed its tokens, RFC 3339; null for never on this connection. Listing databricks/tokens does so."},

	keyEndsSoon: {Type: framework.TypeSlice, Description: "What ends at Databricks within 30 days with no rotation scheduled before, or has ended: maps with path, expiry_time and operator_created. Absent with summary=true."},
}

// addVerdict shows what was counted, and how the mount is.
func (b *backend) addVerdict(ctx context.Context, req *logical.Request, status map[string]any, conn *connection, config *configEntry) error {
	v := &vitals{
		now: b.now(), configured: conn != nil, background: b.mayWrite() && b.WriteSafeReplicationState(), rollsBack: b.mayWrite(),
		calls: b.counters.LastFailure(), counted: b.credentials.totals(b.now()),
	}
	v.retained, _ = status[keyRetainedError].(string)
	v.dropped, v.lost = b.events.droppedSoFar()
	if found := b.splitBrain.Load(); found != nil {
		v.splitBrain = found.Error()
	}
	if conn != nil {
		v.clock = conn.client.Clock()
		v.tokens = quotaOf(conn, v.counted)
	}
	var err error
	if v.tidy, _, err = b.tidyStatus(ctx, req.Storage); err != nil {
		return err
	}
	if err := b.addRotations(ctx, req.Storage, v, config); err != nil {
		return err
	}
	b.addCounted(status, v)
	verdict, reasons := v.judge()
	texts, list := []string{}, []any{}
	for _, r := range reasons {
		advice := strings.ReplaceAll(r.advice, "databricks/", req.MountPoint)
		texts = append(texts, r.reason+": "+r.text+". "+advice)
		list = append(list, map[string]any{"reason": r.reason, "severity": r.severity, "text": r.text, "advice": advice})
	}
	status[keyVerdict], status[keyVerdictText], status[keyReasons] = verdict, strings.Join(texts, " "), list
	return nil
}

// addRotations adds what the config and the static roles hold. Static roles come from memory, after their first use.
func (b *backend) addRotations(ctx context.Context, s logical.Storage, v *vitals, config *configEntry) error {
	if config != nil {
		v.rotations = append(v.rotations, rotationVitals{path: "config", rotation: config.rotationView(), expires: config.Rotation.Credential.Expires})
	}
	names, err := s.List(ctx, staticStoragePrefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		e, err := b.static(ctx, s, name)
		switch {
		case isUnreadable(err):
			v.unreadable = append(v.unreadable, name)
		case err != nil:
			return err
		case e != nil:
			v.rotations = append(v.rotations, rotationVitals{path: "static-roles/" + name, rotation: e.clone().rotationView(), expires: e.State.Current.Expires})
		}
	}
	return nil
}

// addCounted shows what the verdict goes by.
func (b *backend) addCounted(status map[string]any, v *vitals) {
	status[keySinceTime], status[keyBackground] = rfc3339(b.started), v.background
	types := map[string]any{}
	for name, n := range v.counted.types {
		types[name] = map[string]any{
			"minted": n.Minted, "minted_still_live": n.StillLive, "revoked": n.Revoked, "mint_failures": n.MintFailures, "revoke_failures": n.RevokeFailures,
		}
	}
	all := v.counted.all
	status[keyCredentials], status[keyCredentialsMinted], status[keyCredentialsLive] = types, all.Minted, all.StillLive
	status[keyCredentialsRevoked], status[keyMintFailures], status[keyRevokeFailures] = all.Revoked, all.MintFailures, all.RevokeFailures

	status[keyRecordedLeases], status[keyUndoFailing], status[keyUndoError] = nil, nil, ""
	left, known := b.intents.backlog(v.now)
	if known && v.rollsBack {
		v.backlog = left
		status[keyRecordedLeases], status[keyUndoFailing], status[keyUndoError] = left.records, left.failing, left.failure
	}
	if v.configured {
		status[keyTokensUsed], status[keyTokensQuota], status[keyTokensSeenTime] = nil, credential.MaxTokens, timeOrNull(v.tokens.seen)
		if v.tokens.known {
			status[keyTokensUsed] = v.tokens.used
		}
	}
	soon := []any{}
	for _, r := range v.rotations {
		if !r.rotation.deleting && r.uncovered(v.now, v.now.Add(expirySoon)) {
			soon = append(soon, map[string]any{
				"path": r.path, "expiry_time": rfc3339(r.expires), "operator_created": r.path == "config" && r.rotation.current.ID == "",
			})
		}
	}
	slices.SortStableFunc(soon, func(x, y any) int {
		return strings.Compare(x.(map[string]any)["expiry_time"].(string), y.(map[string]any)["expiry_time"].(string))
	})
	status[keyEndsSoon] = soon
}

// quotaOf returns how full the quota of tokens is, as far as that is known without a call.
func quotaOf(conn *connection, counted credentialTotals) tokenQuota {
	if conn.account {
		return tokenQuota{}
	}
	q := tokenQuota{used: int(counted.types[credential.PAT].StillLive)}
	if seen := conn.client.TokensSeen(); seen != nil {
		q.used, q.seen = max(q.used, seen.Count), seen.Time.UTC().Truncate(time.Second)
	}
	q.known = q.used > 0 || !q.seen.IsZero()
	return q
}
