#!/usr/bin/perl
# Gradient Centralization in Perl, as a program that the suite can ask: gc-conformance run --command "perl port.pl"
#
# One line of JSON is a question, one line is its answer; protocol.schema.json of gc_conformance says what they hold.
use strict;
use warnings;
use JSON::PP;

$| = 1;    # each answer is sent at once
my %FORMAT = ( float32 => 'f<', float64 => 'd<' );
my $json   = JSON::PP->new->canonical->allow_nonref;

sub read_array {
    my ($array) = @_;
    my $format = $FORMAT{ $array->{dtype} } or die { not_provided => $array->{dtype} };
    return [ unpack "($format)*", pack 'H*', $array->{bits} ];
}

# Perl computes in double precision; here each number is rounded once.
sub written {
    my ( $numbers, $like ) = @_;
    my $bits = unpack 'H*', pack "($FORMAT{ $like->{dtype} })*", @$numbers;
    return { dtype => $like->{dtype}, shape => $like->{shape}, bits => $bits };
}

# g - mean(g), the mean over the fan-in axes; without axes it is no weight.
sub centralize {
    my ( $grad, $axis ) = @_;
    my $g = read_array($grad);
    return $grad unless defined $axis;
    my @shape = @{ $grad->{shape} };
    my %over  = map { ( $_ + @shape ) % @shape => 1 } ref $axis ? @$axis : $axis;
    my ( @of, %sum, %count );
    for my $i ( 0 .. $#$g ) {
        my ( $rest, $number, $stride ) = ( $i, 0, 1 );    # the number of the weight vector
        for my $a ( reverse 0 .. $#shape ) {
            unless ( $over{$a} ) { $number += ( $rest % $shape[$a] ) * $stride; $stride *= $shape[$a] }
            $rest = int( $rest / $shape[$a] );
        }
        push @of, $number;
        $sum{$number} += $g->[$i];
        $count{$number}++;
    }
    return written( [ map { $g->[$_] - $sum{ $of[$_] } / $count{ $of[$_] } } 0 .. $#$g ], $grad );
}

sub fan_in_axes {
    my ( $shape, $layout ) = @_;
    return undef if @$shape < 2;
    my $output = $layout eq 'out_first' ? 0 : $#$shape;
    my @axes   = grep { $_ != $output } 0 .. $#$shape;
    my $fan_in = 1;
    $fan_in *= $shape->[$_] for @axes;
    return $fan_in == 1 ? undef : [ map { $_ + 0 } @axes ];
}

my %answers = (
    start => sub {
        return {
            version  => 1,
            name     => 'Gradient Centralization in Perl',
            language => 'Perl',
            dtypes   => [ sort keys %FORMAT ],
            provides => [ 'centralize', 'fan_in_axes' ],
        };
    },
    centralize  => sub { centralize( $_[0]{grad}, $_[0]{axis} ) },
    fan_in_axes => sub { fan_in_axes( $_[0]{shape}, $_[0]{layout} ) },
);

while ( my $line = <STDIN> ) {
    my $question = $json->decode($line);
    my $result   = eval { { result => $answers{ $question->{do} }->($question) } };
    my $answer   = $result // ( ref $@ ? $@ : { error => { kind => 'other', message => "$@" } } );
    print $json->encode( { seq => $question->{seq}, %$answer } ), "\n";
}
