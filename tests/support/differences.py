"""What differs between the two gateways."""

DIFFERENCES = {
    "test_what_cannot_be_answered_is_a_problem[haproxy-BREW /payment-request_parts3-405-method-not-allowed]": (
        "a method that HTTP does not have does not get past the service's server, as behind no gateway on a socket: 400"
    ),
    "test_a_chunked_body_arrives_whole_with_its_length[haproxy]": (
        "HAProxy passes a body on as it came, chunked; services read both"
    ),
    **{
        f"test_what_cannot_be_parsed_is_a_problem_with_a_request_id[haproxy-sqlite-{sent}]": (
            "what is not HTTP is answered before any rule applies: 400, with HAProxy's own page"
        )
        for sent in ("noise", "a header without a colon", "two lengths")
    },
}
"""Where HAProxy cannot be like the Python gateway, by the name of the test that shows it, and why."""
