// SPDX-License-Identifier: MPL-2.0

package simulator

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// WithIPAccessList is [Workspace.SetIPAccessList] from the start.
func WithIPAccessList(allowed ...string) Option {
	return func(s *settings) { s.allowedAddresses = allowed }
}

// WithAuthenticationDown is [Workspace.SetAuthenticationDown] from the start.
func WithAuthenticationDown(kinds ...string) Option {
	return func(s *settings) { s.authDown = kinds }
}

// SetIPAccessList lets in calls from these addresses only ("203.0.113.7", or a range, "203.0.113.0/24"), and takes the list away with
// none. All of the workspace's host is behind it, its token endpoint included, but neither the account nor Microsoft Entra ID. It panics
// if one is not an address.
func (w *Workspace) SetIPAccessList(allowed ...string) {
	list, err := parseAddresses(allowed)
	if err != nil {
		panic("simulator: " + err.Error())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.allowedAddresses = list
}

func parseAddresses(texts []string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			address, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("%q is neither an address nor a range of addresses", text)
			}
			prefix = netip.PrefixFrom(address, address.BitLen())
		}
		list = append(list, prefix)
	}
	return list, nil
}

// admit refuses a call from an address that is not on the IP access list.
func (w *Workspace) admit(r *request) *refusal {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.allowedAddresses) == 0 || underAccount(r) || strings.HasPrefix(r.URL.Path, "/oidc/accounts/") || strings.HasSuffix(r.URL.Path, "/oauth2/token") {
		return nil
	}
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err == nil && slices.ContainsFunc(w.allowedAddresses, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) }) {
		return nil
	}
	return refuseByGateway(http.StatusForbidden, "403", w.blockedAddress(from.Addr().Unmap().String()))
}

func (w *Workspace) blockedAddress(address string) string {
	return fmt.Sprintf("Source IP address: %s is blocked by Databricks IP ACL for workspace: %s", address, w.settings.workspaceID)
}

// SetAuthenticationDown answers good tokens of these kinds ([KindPAT], [KindOAuth], [KindEntra]) with a 503 that calls itself temporary and
// lasts until this is called again, with other kinds or none. Workspaces have been seen to answer so for good, to tokens of Microsoft Entra
// ID that they don't take.
func (w *Workspace) SetAuthenticationDown(kinds ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.authDown = kinds
}

// checkAuthentication refuses a token of a kind that is down. The caller holds the mutex.
func (w *Workspace) checkAuthentication(kind string) *refusal {
	if !slices.Contains(w.authDown, kind) {
		return nil
	}
	return refuseByGateway(http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "Authentication is temporarily unavailable")
}

// The faults below refuse whoever calls, whatever the credential, in the forms that were recorded. Path and the other fields that choose
// the requests are for the caller to set; a workspace behind an IP access list refuses its token endpoint in the same way.

// BlockedAddress is the answer to an address that is not on the workspace's IP access list, wherever the call came from.
func (w *Workspace) BlockedAddress(address string) Fault {
	return w.denial(w.blockedAddress(address))
}

// BlockedNetwork is the answer to a network that the workspace's network policy, or private link, keeps out. It was seen as an envelope
// and as a plain text, which is what this one is.
func (w *Workspace) BlockedNetwork() Fault {
	return Fault{Status: http.StatusForbidden, Body: "Unauthorized network access to workspace: " + w.settings.workspaceID}
}

// ForeignOrg is the answer to somebody who is not in the workspace, or whose credential is for another one.
func (w *Workspace) ForeignOrg() Fault {
	return w.denial("Invalid access to Org: " + w.settings.workspaceID)
}

func (w *Workspace) denial(message string) Fault {
	return Fault{Status: http.StatusForbidden, Body: fmt.Sprintf(`{"error_code":403,"message":%q}`, message)}
}
